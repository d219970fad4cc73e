"""Compute-to-Data jobs.

Revision 0004, after 0003. Frozen: a later change is a new file.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String(32), nullable=False, unique=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("did", sa.String(71), nullable=False),
        sa.Column("model_digest", sa.String(66), nullable=False),
        sa.Column("owner", sa.String(42), nullable=False),
        sa.Column("payment", sa.String(66), nullable=False),
        sa.Column("held_payment", sa.String(66), unique=True),
        sa.Column("dataset_did", sa.String(71)),
        sa.Column("dataset_order", sa.String(66)),
        sa.Column("algorithm_did", sa.String(71), nullable=False),
        sa.Column("algorithm_order", sa.String(66)),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("environment", sa.String(64), nullable=False),
        sa.Column("valid_until", sa.BigInteger(), nullable=False),
        sa.Column("paid_s", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("reason_code", sa.String(64)),
        sa.Column("reason", sa.Text()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float()),
        sa.Column("finished_at", sa.Float()),
        sa.Column("stop_requested_at", sa.Float()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(64)),
        sa.Column("progress", sa.Text()),
        sa.Column("result", sa.Text()),
        sa.Column("weights_digest", sa.String(66)),
        sa.Column("derived_did", sa.String(71)),
    )
    op.create_index("jobs_by_state", "jobs", ["state", "position"])
    op.create_index("jobs_of_an_owner", "jobs", ["owner", "position"])
    op.create_index("jobs_of_a_payment", "jobs", ["payment"])
