"""The first tables.

Revision 0001, after none. Frozen: a later change is a new file.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("did", sa.String(71), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("entry_name", sa.String(64), nullable=False),
        sa.Column("model_digest", sa.String(66), nullable=False),
        sa.Column("chain_id", sa.BigInteger(), nullable=False),
        sa.Column("nft", sa.String(42), nullable=False),
        sa.Column("datatoken", sa.String(42), nullable=False),
        sa.Column("exchange", sa.String(66)),
        sa.Column("publisher", sa.String(42), nullable=False),
        sa.Column("service_index", sa.Integer(), nullable=False),
        sa.Column("timeout_s", sa.BigInteger(), nullable=False),
        sa.Column("rate", sa.String(78), nullable=False),
        sa.Column("base_token", sa.String(42), nullable=False),
        sa.Column("publish_fee", sa.String(78), nullable=False),
        sa.Column("swap_fee", sa.String(78), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("published_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "nonces",
        sa.Column("nonce", sa.String(64), primary_key=True),
        sa.Column("issued_at", sa.Float(), nullable=False),
        sa.Column("used_at", sa.Float()),
    )
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("wallet", sa.String(42), nullable=False),
        sa.Column("did", sa.String(71), nullable=False),
        sa.Column("order_tx", sa.String(66), nullable=False),
        sa.Column("order_block", sa.BigInteger(), nullable=False),
        sa.Column("order_block_hash", sa.String(66), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("calls_limit", sa.BigInteger(), nullable=False),
        sa.Column("calls_used", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.Float()),
        sa.Column("revoked_why", sa.Text(), nullable=False),
    )
    op.create_index("sessions_of_an_order", "sessions", ["order_tx"])
    op.create_table(
        "calls",
        sa.Column("call_id", sa.String(32), primary_key=True),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("did", sa.String(71), nullable=False),
        sa.Column("model_digest", sa.String(66), nullable=False),
        sa.Column("consumer", sa.String(42), nullable=False),
        sa.Column("order_tx", sa.String(66), nullable=False),
        sa.Column("request_hash", sa.String(66), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.String(64), nullable=False),
        sa.Column("is_streaming", sa.Integer(), nullable=False),
    )
    op.create_table(
        "receipts",
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("receipt_id", sa.String(66), nullable=False, unique=True),
        sa.Column("call_id", sa.String(32), nullable=False, unique=True),
        sa.Column("order_tx", sa.String(66), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("did", sa.String(71), nullable=False),
        sa.Column("consumer", sa.String(42), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("leaf_index", sa.BigInteger(), unique=True),
        sa.UniqueConstraint("order_tx", "sequence", name="one_receipt_a_sequence"),
    )
    op.create_index("receipts_waiting", "receipts", ["leaf_index", "position"])
