"""Answers of calls that carried an Idempotency-Key.

Revision 0003, after 0002. Frozen: a later change is a new file.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("order_tx", sa.String(66), primary_key=True),
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("call_id", sa.String(32), nullable=False, unique=True),
        sa.Column("fingerprint", sa.String(66), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("body", sa.LargeBinary()),
        sa.Column("header_length", sa.Integer()),
    )
    op.create_index("answers_by_end", "answers", ["expires_at"])
