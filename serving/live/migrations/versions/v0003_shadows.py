"""Answers of a shadow policy to images that the active one answered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """A table of their own: they come later than the answers, and their labels may have come before."""
    op.create_table(
        "shadows",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created", sa.Double, index=True, nullable=False),
        sa.Column("network", sa.String(200), index=True, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("configuration", sa.Text, nullable=False),
        sa.Column("predicted", sa.Integer, nullable=False),
        sa.Column("macs", sa.Double, nullable=False),
    )
