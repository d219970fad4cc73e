"""How far a served entry was from PyTorch when it was published; and of nonces only the used ones, with their end.

Revision 0002, after 0001. Frozen: a later change is a new file. Listings from before have an empty list. Nonces
from before are forgotten: they were good for ten minutes.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("parity", sa.Text(), nullable=False, server_default="[]"))
    op.drop_table("nonces")
    op.create_table(
        "nonces",
        sa.Column("nonce", sa.String(64), primary_key=True),
        sa.Column("expires_at", sa.Float(), nullable=False),
    )
    op.create_index("nonces_by_end", "nonces", ["expires_at"])
