"""quotas of projects."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "quotas",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=True),
        sa.Column("nodes", sa.Integer(), nullable=True),
        sa.Column("accelerators", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("project_id"),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    locks = op.create_table(
        "quota_locks",
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("taken", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("slot"),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.bulk_insert(locks, [{"slot": slot, "taken": 0} for slot in range(64)])
    op.create_index("ix_jobs_project_phase", "jobs", ["project_id", "phase"], unique=False)
    op.add_column("nodes", sa.Column("accelerators", sa.Integer(), server_default="0", nullable=False))
    _count_accelerators()


def _count_accelerators() -> None:
    """Note what the nodes of jobs that have not ended have."""
    jobs = sa.table("jobs", sa.column("id"), sa.column("phase"), sa.column("spec", sa.JSON()))
    nodes = sa.table("nodes", sa.column("job_id"), sa.column("role"), sa.column("accelerators"))
    connection = op.get_bind()
    for job_id, spec in connection.execute(sa.select(jobs.c.id, jobs.c.spec).where(jobs.c.phase != "DONE")).all():
        for role, entry in spec["roles"].items():
            count = (entry["flavor"]["accelerators"] or {"count": 0})["count"]
            connection.execute(sa.update(nodes).where(nodes.c.job_id == job_id, nodes.c.role == role).values(accelerators=count))
