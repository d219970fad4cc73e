"""What Ocean's clients need: their nonces and tokens, and the assets found on chain.

Revision 0006, after 0005. Frozen: a later change is a new file.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "user_nonces",
        sa.Column("address", sa.String(42), primary_key=True),
        sa.Column("nonce", sa.Float(), nullable=False),
    )
    op.create_table(
        "auth_tokens",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("address", sa.String(42), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("revoked_at", sa.Float()),
    )
    op.create_index("auth_tokens_by_end", "auth_tokens", ["expires_at"])
    op.create_table(
        "assets",
        sa.Column("did", sa.String(71), primary_key=True),
        sa.Column("nft", sa.String(42), nullable=False, unique=True),
        sa.Column("block", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("orders", sa.BigInteger(), nullable=False),
        sa.Column("refreshed_at", sa.Float(), nullable=False),
    )
    op.create_index("assets_by_age", "assets", ["refreshed_at"])
    op.create_table(
        "chain_cursor",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("block", sa.BigInteger(), nullable=False),
        sa.Column("block_hash", sa.String(66), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
    )
