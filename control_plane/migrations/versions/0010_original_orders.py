"""Of a job whose payment ordered again: the order itself, which its receipt names.

Revision 0010, after 0009. Frozen: a later change is a new file.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("original_order", sa.String(66)))
