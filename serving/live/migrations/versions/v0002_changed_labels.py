"""Labels say how often they were changed; names of policies and configurations may have any length."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Two columns, and types without length (SQLite's have none)."""
    op.add_column("labels", sa.Column("first", sa.Double, nullable=False, server_default="0"))
    op.add_column("labels", sa.Column("changes", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE labels SET first = created")
    if op.get_bind().dialect.name == "sqlite":
        return
    for table, column in (("answers", "policy"), ("answers", "configuration"), ("labels", "policy")):
        op.alter_column(table, column, type_=sa.Text())
    op.alter_column("labels", "configuration", type_=sa.Text())
    op.alter_column("evaluations", "policy", type_=sa.Text())
