"""Digests of what is sent: a large body is checked when it is brought."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("output", sa.Column("body_digest", sa.LargeBinary(), nullable=True))
