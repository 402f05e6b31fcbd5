"""The schema. Times are doubles: seconds since 1970 UTC (see ``clock``)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Double, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Id = String(36)
#: a counter that SQLite, too, numbers by itself
Serial = BigInteger().with_variant(Integer, "sqlite")
#: text of any length: MariaDB's TEXT ends at 64 KiB
LongText = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


class Base(DeclarativeBase):
    """Base of all tables."""

    # Text is equal only when it is the same, as on the other databases: MariaDB's default takes "A" for "a".
    __table_args__: Any = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


class Job(Base):
    """A training job. ``worker_id``, ``generation`` and ``lease_expires_at`` say who may write it while it runs."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("project_id", "client_token", name="uq_jobs_client_token"),
        Index("ix_jobs_project_created", "project_id", "created_at"),
        Index("ix_jobs_phase_lease", "phase", "lease_expires_at"),
        Index("ix_jobs_project_name", "project_id", "name"),
        Index("ix_jobs_project_phase", "project_id", "phase"),
        Base.__table_args__,
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(String(64))
    user_id: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(255))
    description: Mapped[str | None] = mapped_column(Text)
    meta: Mapped[dict[str, str]] = mapped_column("metadata", JSON, default=dict)
    client_token: Mapped[str | None] = mapped_column(String(64))
    #: sha256 of the request without its secrets, to tell a repeated request from another one with the same client_token
    request_digest: Mapped[str] = mapped_column(String(64), default="")
    framework: Mapped[str] = mapped_column(String(64), default="custom")
    #: the package it was made from; set to null when the package goes (the content's digest stays in the spec)
    package_id: Mapped[str | None] = mapped_column(Id, ForeignKey("packages.id", ondelete="SET NULL"), index=True)
    #: what the user asked for, with names resolved to ids (see api/v1/jobs.py)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: what the user asked for, word for word but for secrets and client_token; null for jobs of before this was kept
    document: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    #: public halves of the job's keys: {"ssh": ..., "host": ...} in OpenSSH format
    keys: Mapped[dict[str, str]] = mapped_column(JSON)
    #: sealed JSON: {"ssh": private key, "host": private key, "secrets": {name: value}}
    sealed: Mapped[str] = mapped_column(LongText)
    priority: Mapped[int] = mapped_column(Integer, default=0)

    phase: Mapped[str] = mapped_column(String(16))
    outcome: Mapped[str | None] = mapped_column(String(16))
    target: Mapped[str] = mapped_column(String(8))
    #: the job's record goes when its teardown is done (the user deleted it)
    forget: Mapped[bool] = mapped_column(Boolean, default=False)
    cause: Mapped[str | None] = mapped_column(String(16))
    status_reason: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[int] = mapped_column(Integer, default=0)
    exit_code: Mapped[int | None] = mapped_column(Integer)
    failed_task: Mapped[str | None] = mapped_column(String(64))

    attempt: Mapped[int] = mapped_column(Integer, default=0)
    error_restarts: Mapped[int] = mapped_column(Integer, default=0)
    infra_restarts: Mapped[int] = mapped_column(Integer, default=0)
    capacity_tries: Mapped[int] = mapped_column(Integer, default=0)
    #: what the worker needs to go on after a crash: security group, rank table of the attempt
    runtime: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)

    #: id of the last report of this generation: the same one again (its answer was lost), or an earlier one, changes nothing
    last_report: Mapped[str | None] = mapped_column(Id)
    worker_id: Mapped[str | None] = mapped_column(String(128))
    generation: Mapped[int] = mapped_column(Integer, default=0)
    lease_expires_at: Mapped[float | None] = mapped_column(Double)
    #: a job that waits for room, or for its next start, is not taken on before this time
    not_before: Mapped[float | None] = mapped_column(Double)

    created_at: Mapped[float] = mapped_column(Double)
    updated_at: Mapped[float] = mapped_column(Double)
    phase_started_at: Mapped[float] = mapped_column(Double)
    #: since when a job that has run waits for room again; null where it has not, or does not
    waiting_since: Mapped[float | None] = mapped_column(Double)
    #: first entry into RUNNING
    started_at: Mapped[float | None] = mapped_column(Double)
    #: entry into DONE
    finished_at: Mapped[float | None] = mapped_column(Double)


class Node(Base):
    """A virtual machine that a job has or wants: written before the cloud is asked for it."""

    __tablename__ = "nodes"

    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    rank: Mapped[int] = mapped_column(Integer, primary_key=True)
    role: Mapped[str] = mapped_column(String(32))
    role_index: Mapped[int] = mapped_column(Integer)
    flavor_id: Mapped[str] = mapped_column(String(255))
    #: how many its flavor promised when the job was made
    accelerators: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    #: of an hour, at which the job was made; null where there was none
    price: Mapped[float | None] = mapped_column(Double)
    server_id: Mapped[str | None] = mapped_column(Id)
    server_name: Mapped[str | None] = mapped_column(String(255))
    address: Mapped[str | None] = mapped_column(String(64))
    #: PLANNED, then what Nova says (BUILD, ACTIVE, ERROR, ...), at the end DELETED
    status: Mapped[str] = mapped_column(String(32), default="PLANNED")
    fault: Mapped[str | None] = mapped_column(Text)
    unreachable_since: Mapped[float | None] = mapped_column(Double)
    updated_at: Mapped[float] = mapped_column(Double)


class NodeTime(Base):
    """A server that was a node of a job, and for how long: stays when the job is deleted, so nothing refers to it."""

    __tablename__ = "node_times"
    __table_args__ = (
        Index("ix_node_times_job", "job_id"),
        Index("ix_node_times_project", "project_id", "started_at"),
        Base.__table_args__,
    )

    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    project_id: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(Id)
    rank: Mapped[int] = mapped_column(Integer)
    server_id: Mapped[str] = mapped_column(Id)
    accelerators: Mapped[int] = mapped_column(Integer)
    #: of an hour
    price: Mapped[float | None] = mapped_column(Double)
    #: when the worker saw that the server is there
    started_at: Mapped[float] = mapped_column(Double)
    #: when it was known to be gone, or lost
    ended_at: Mapped[float | None] = mapped_column(Double)


class Task(Base):
    """A process of one attempt."""

    __tablename__ = "tasks"

    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)  # "worker:0"
    node_rank: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16))  # PENDING, RUNNING, EXITED, STOPPED
    exit_code: Mapped[int | None] = mapped_column(Integer)
    signal: Mapped[int | None] = mapped_column(Integer)
    started_at: Mapped[float | None] = mapped_column(Double)
    ended_at: Mapped[float | None] = mapped_column(Double)


class Event(Base):
    """Something that happened to a job, with its cause, for people to read."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_job", "job_id", "id"), Base.__table_args__)

    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"))
    at: Mapped[float] = mapped_column(Double)
    #: machine-readable kind, e.g. "phase", "capacity", "node", "task", "cancel"
    kind: Mapped[str] = mapped_column(String(32))
    message: Mapped[str] = mapped_column(Text)
    detail: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)


class Metric(Base):
    """A value that the training reported in its log. The place in the log makes reporting it twice harmless."""

    __tablename__ = "metrics"
    __table_args__ = (Index("ix_metrics_series", "job_id", "name", "at"), Base.__table_args__)

    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    task: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: byte offset of the line in the task's log
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    step: Mapped[int | None] = mapped_column(BigInteger)
    #: null for what is no number (NaN and the infinities), which not every database can hold
    value: Mapped[float | None] = mapped_column(Double)
    at: Mapped[float] = mapped_column(Double)


class Package(Base):
    """Training code that a project uploaded; the same content is stored once a project."""

    __tablename__ = "packages"
    __table_args__ = (UniqueConstraint("project_id", "sha256", name="uq_packages_content"), Base.__table_args__)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[float] = mapped_column(Double)


class Quota(Base):
    """A project's own limits; null where the configured ones hold."""

    __tablename__ = "quotas"

    project_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    jobs: Mapped[int | None] = mapped_column(Integer)
    nodes: Mapped[int | None] = mapped_column(Integer)
    accelerators: Mapped[int | None] = mapped_column(Integer)


class QuotaLock(Base):
    """What a transaction changes that counts what a project has and then adds to it. The migration fills it; see ``db.quotas.lock``."""

    __tablename__ = "quota_locks"

    slot: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    taken: Mapped[int] = mapped_column(BigInteger)


class Worker(Base):
    """A worker process: host and the uuid of this start, so that a restarted one never inherits by name."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    host: Mapped[str] = mapped_column(String(255))
    capacity: Mapped[int] = mapped_column(Integer)
    draining: Mapped[bool] = mapped_column(Boolean, default=False)
    started_at: Mapped[float] = mapped_column(Double)
    seen_at: Mapped[float] = mapped_column(Double)
