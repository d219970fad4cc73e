"""What the chain may still undo: documents that later ones replaced, and orders by block.

Revision 0007, after 0006. Frozen: a later change is a new file. Orders that were counted before stand under block 0.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "replaced_documents",
        sa.Column("did", sa.String(71), primary_key=True),
        sa.Column("block", sa.BigInteger(), primary_key=True),
        sa.Column("replaced_in", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
    )
    op.create_index("replaced_documents_by_block", "replaced_documents", ["replaced_in"])
    op.create_table(
        "counted_orders",
        sa.Column("did", sa.String(71), primary_key=True),
        sa.Column("block", sa.BigInteger(), primary_key=True),
        sa.Column("count", sa.BigInteger(), nullable=False),
    )
    op.create_index("counted_orders_by_block", "counted_orders", ["block"])
    op.execute("INSERT INTO counted_orders (did, block, count) SELECT did, 0, orders FROM assets WHERE orders > 0")
