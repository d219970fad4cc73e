"""Positions of 64 bits on PostgreSQL: 2**31 receipts are two months of 400 calls a second.

Revision 0011, after 0010. Frozen: a later change is a new file. SQLite's have 64 bits since the first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in ("receipts", "jobs"):
            op.alter_column(table, "position", type_=sa.BigInteger(), existing_type=sa.Integer(), existing_nullable=False)
            op.execute(f"ALTER SEQUENCE {table}_position_seq AS bigint")
