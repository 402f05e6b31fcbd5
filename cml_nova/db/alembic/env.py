"""Alembic's entry: runs migrations on the connection that ``cml_nova.db.migration`` hands over."""

from alembic import context

from cml_nova.db.models import Base

connection = context.config.attributes["connection"]
# SQLite can alter a table only by copying it, which batch mode does.
context.configure(
    connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_type=True, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
