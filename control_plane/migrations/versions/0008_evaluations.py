"""Evaluations that their evaluators wanted published.

Revision 0008, after 0007. Frozen: a later change is a new file.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evaluations",
        sa.Column("finding", sa.String(66), primary_key=True),
        sa.Column("statement_hash", sa.String(66), nullable=False),
        sa.Column("did", sa.String(71), nullable=False),
        sa.Column("evaluator", sa.String(42), nullable=False),
        sa.Column("published_at", sa.Float(), nullable=False),
        sa.Column("statement", sa.Text(), nullable=False),
    )
    op.create_index("evaluations_of_an_asset", "evaluations", ["did", "published_at"])
