"""The tables of the first version, where they are not there already: it made them without migrations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make what is missing."""
    tables = sa.MetaData()
    sa.Table(
        "answers",
        tables,
        *_begin(),
        sa.Column("network", sa.String(200), nullable=False),
        sa.Column("policy", sa.String(64), nullable=False),
        *_ran(),
    )
    sa.Table(
        "labels",
        tables,
        *_begin(),
        sa.Column("network", sa.String(200), index=True, nullable=False),
        sa.Column("policy", sa.String(64), nullable=False),
        *_ran(),
        sa.Column("label", sa.Integer, nullable=False),
    )
    sa.Table(
        "images",
        tables,
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("expires", sa.Double, index=True, nullable=False),
        sa.Column("claimed_until", sa.Double, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary(2**32 - 1), nullable=False),
    )
    sa.Table(
        "evaluations",
        tables,
        *_begin(),
        sa.Column("network", sa.String(200), index=True, nullable=False),
        sa.Column("policy", sa.String(64), nullable=False),
        sa.Column("policy_right", sa.Boolean, nullable=False),
        sa.Column("policy_macs", sa.Double, nullable=False),
        sa.Column("right", sa.Text, nullable=False),
        sa.Column("oracle_macs", sa.Double, nullable=False),
    )
    tables.create_all(op.get_bind())


def _begin() -> list[sa.Column[object]]:
    return [sa.Column("id", sa.String(64), primary_key=True), sa.Column("created", sa.Double, index=True, nullable=False)]


def _ran() -> list[sa.Column[object]]:
    return [
        sa.Column("configuration", sa.String(200), nullable=False),
        sa.Column("predicted", sa.Integer, nullable=False),
        sa.Column("macs", sa.Double, nullable=False),
    ]
