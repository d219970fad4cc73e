"""The database's history, one file a step (Alembic), and `migrate`, which brings a database up to date.

In: an engine. Out: the tables of `control_plane.database`. This module must never lose a row: receipts are evidence.
"""

from control_plane.migrations.migrate import migrate

__all__ = ["migrate"]
