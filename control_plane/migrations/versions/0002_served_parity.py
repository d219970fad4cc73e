"""How far a served entry was from PyTorch when it was published.

Revision 0002, after 0001. Frozen: a later change is a new file. Listings from before have an empty list.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("parity", sa.Text(), nullable=False, server_default="[]"))
