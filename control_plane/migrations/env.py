"""Alembic's entry: runs the steps on the connection that `migrate` opened, inside its transaction. Not imported by anyone."""

from alembic import context

from control_plane.database import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
