"""When a job's program first ran: a stop before that gives the payment back.

Revision 0009, after 0008. Frozen: a later change is a new file.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("begun_at", sa.Float()))
    op.execute("UPDATE jobs SET begun_at = started_at")  # nobody noted more of those; a job in the queue has neither
