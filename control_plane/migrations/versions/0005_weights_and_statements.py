"""Which weights of a listing are kept for training, and how a derived one came to be.

Revision 0005, after 0004. Frozen: a later change is a new file. Listings from before have neither: publish them again
to train them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("weights_digest", sa.String(66)))
    op.add_column("models", sa.Column("statement", sa.Text()))
