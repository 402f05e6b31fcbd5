"""jobs that have run, and wait for room again."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("waiting_since", sa.Double(), nullable=True))
