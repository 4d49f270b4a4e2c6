"""The database's schema, step by step from its first version; alembic applies the steps that are missing.

Every step runs in one transaction under a lock, so workers that start together migrate once. To add one, copy the newest
file of ``versions/`` under the next number.
"""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from dynamic.errors import UserError
from serving.live.tables import METADATA

VERSION_TABLE = "serving_version"
"""Not alembic's own name: another program may share the database."""

_LOCK = 0x64796E616D6963
"""Of PostgreSQL's advisory locks, the one that migrates."""

_ONE_AT_A_TIME = threading.Lock()
"""Of this process: alembic keeps what it works on in a module."""


def migrate(connection: sa.Connection) -> None:
    """Bring the database behind a connection to the newest schema; its rows stay.

    Args:
        connection: on which nothing has run yet; the caller commits.

    Raises:
        UserError: tables of these names that are another program's, or a schema newer than this version of the service.
        sqlalchemy.exc.SQLAlchemyError: the database fails.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    _check_columns(connection, new_ones=False)
    try:
        with _ONE_AT_A_TIME:
            command.upgrade(config, "head")
    except CommandError as error:
        if "Can't locate revision" in str(error):
            raise UserError("its tables are those of a newer version of the service: upgrade this one") from error
        raise
    _check_columns(connection, new_ones=True)


def _check_columns(connection: sa.Connection, new_ones: bool) -> None:
    """Raise UserError where a table of our names lacks our columns: it is somebody else's."""
    inspector = sa.inspect(connection)
    present = set(inspector.get_table_names())
    for table in METADATA.sorted_tables:
        if table.name in present:
            found = {column["name"] for column in inspector.get_columns(table.name)}
            wanted = [c.name for c in table.columns if new_ones or c.server_default is None]
            missing = [name for name in wanted if name not in found]
            if missing:
                raise UserError(f"its table {table.name!r} has no column {missing[0]!r}: it is another program's")
