"""Alembic runs this file: the steps, on the connection that :func:`serving.live.migrations.migrate` holds."""

from __future__ import annotations

from alembic import context

from serving.live.migrations import VERSION_TABLE

if hasattr(context, "config"):  # not where anything else imports it
    context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
    with context.begin_transaction():
        context.run_migrations()
