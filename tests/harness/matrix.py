"""The fault matrix: what may go wrong, what is expected then, and which tests hold us to it.

A test is tied to its rows by ``@pytest.mark.fault("row", ...)``, or by such a mark on one of its parameters. ``tools/draw-faults``
makes the table of doc/faults.md of it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
#: the part of the tests that runs against a whole OpenStack
_REAL = "realcloud"


@dataclass(frozen=True)
class Row:
    """A fault by its name, in words, and what has to come of it."""

    id: str
    fault: str
    expected: str


@dataclass(frozen=True)
class Proof:
    """A test that makes a fault happen; ``path`` is below the directory of the tests."""

    path: Path
    test: str

    @property
    def real(self) -> bool:
        """Whether it runs against a whole OpenStack, and not against the local cloud or parts of it."""
        return self.path.parts[0] == _REAL


#: section -> its rows
MATRIX: dict[str, tuple[Row, ...]] = {
    "Nodes are lost": (
        Row("worker-vm-deleted", "a worker's server is deleted behind our back",
            "noticed, this node alone is replaced, a new attempt starts on all nodes"),
        Row("chief-vm-deleted", "the server of the first node is deleted behind our back", "as above; the others meet at its new address"),
        Row("all-vms-deleted", "all servers of a job are reclaimed at once", "all are built anew; the same job, the next attempt"),
        Row("guest-shutdown", "`shutdown now` in a guest", "SHUTOFF is recognised; this node alone is replaced"),
        Row("vm-error", "a server that runs goes to ERROR", "this node alone is replaced"),
        Row("vm-crashed", "a server loses its power (its host or its process there dies)", "SHUTOFF is recognised; as above"),
        Row("losses-used-up", "a node is lost again and again", "FAILED with INFRA_LOST after max_infra_restarts; nothing left"),
        Row("host-down", "a compute host vanishes; the cloud calls its servers ACTIVE",
            "borne in any phase while nothing is known of the host; replaced as soon as Nova shows it down, or after unreachable_timeout"),
        Row("gpu-missing", "a node has fewer GPUs than its flavor promises",
            "replaced before anything is started on it; FAILED with both numbers if its replacement is no better"),
    ),
    "The cloud refuses, fails, or says nothing": (
        Row("boot-error-some", "some servers of a batch go to ERROR when they boot", "they alone are deleted and asked for again"),
        Row("boot-error-all", "all servers of a batch go to ERROR", "deleted; QUEUED with Nova's reason, and tried again"),
        Row("boot-stuck", "servers stay in BUILD",
            "deleted after provisioning_timeout; QUEUED with NO_CAPACITY, and tried again; a cancel deletes them at once"),
        Row("no-capacity", "no host has room", "QUEUED with the reason, nothing held meanwhile; runs when room comes free"),
        Row("no-capacity-ever", "the job is larger than the cloud", "TIMED_OUT after max_wait_time, with the reason for the wait"),
        Row("capacity-shared", "jobs that each need more than half compete", "one after the other, none holds half of what it needs"),
        Row("quota-exceeded", "the project's quota is used up", "QUEUED with cause QUOTA; nothing is created by halves"),
        Row("create-503-before", "POST /servers is answered 503 without effect", "asked for again; the job runs"),
        Row("create-503-after", "POST /servers is answered 503, but the servers come", "found by their tag: as many servers as nodes"),
        Row("create-timeout", "POST /servers takes effect after we gave up waiting for its answer", "as above"),
        Row("cloud-5xx", "any request of any service is answered 5xx now and then, with and without effect", "the job notices nothing"),
        Row("cloud-slow", "each answer of the cloud takes seconds",
            "all goes on, more slowly; nothing is asked for twice, and what finds no room waits in the queue"),
        Row("keystone-down", "Keystone is away in mid-job, and all tokens end", "the training goes on; what needs the cloud waits for it"),
        Row("rate-limited", "requests are answered 429 with Retry-After", "all wait as long as they are told to"),
        Row("cell-down", "a cell does not answer: lists by tag lack its servers",
            "the training goes on; nothing is replaced, and no job is done before it answers"),
        Row("image-gone", "the image vanishes before servers are asked for, or while they boot", "FAILED with the cloud's words"),
        Row("quota-race", "jobs start at once, and the quota is for one", "one runs, the other waits with cause QUOTA and runs then"),
        Row("stuck-deleting", "a deletion is accepted, and the server stays", "CLEANING with an event leak-suspect, until it is gone"),
        Row("ports-left", "servers that failed to boot are deleted, and their ports stay", "they go with the job"),
        Row("token-expired", "all tokens end in mid-job", "new ones are got; the training goes on"),
        Row("delete-503-before", "deletions are refused for a while", "tried until they are done; CLEANING until then"),
        Row("delete-503-after", "the answer to a deletion is lost", "gone is gone"),
        Row("nova-down-in-teardown", "Nova's API is away while servers are to be deleted", "CLEANING until all is deleted"),
        Row("group-undeletable", "a security group can't be deleted", "the job is not over before it is gone"),
        Row("floating-answer-lost", "the answer to a request for a floating address is lost", "no address is left behind"),
        Row("nova-compute-down", "nova-compute is away for a minute", "what runs goes on; what is to be built runs in the end"),
        Row("cloud-rabbitmq-restart", "the cloud's own RabbitMQ restarts", "the training goes on"),
    ),
    "The way to the nodes": (
        Row("ssh-cut", "the SSH path to a node is cut and mended", "the job goes on; its log is whole, each line once"),
        Row("ssh-cut-long", "all paths are cut for longer than every time-out of SSH", "as above; shown since when"),
        Row("ssh-cut-collecting", "the path to a node is cut while outputs of a training that has succeeded are collected",
            "shown since when; they are waited for, as a node that runs is; a cancel does not wait, a job that has failed collect_timeout"),
        Row("stalled-collecting", "a node answers, and sends nothing of its outputs", "replaced after collect_timeout; the next attempt"),
        Row("ssh-cut-preparing", "the path to a node is cut in its setup, for longer than that may take",
            "shown since when; the setup goes on"),
        Row("silent-preparing", "a machine never answers by SSH before the first attempt",
            "replaced after bootstrap_timeout, with the last line of its console; FAILED if its replacement does not answer, either"),
        Row("ip-reused", "another machine has the address of one that is gone", "it is never trusted: it has another host key"),
        Row("many-nodes", "many nodes boot at once", "connected to side by side, within a limit"),
        Row("slow-sshd", "SSH servers take their time with each login, on all nodes at once",
            "waited for, a bounded number of them at a time; none is replaced"),
        Row("mitm", "another host key answers under a node's address", "nothing is said to it; a security event; the node is replaced"),
        Row("guest-clock", "the clocks of nodes are hours off", "logs, checkpoints, signs of life and times shown are as with right ones"),
        Row("runner-killed", "the runner's process that talks to the worker is killed, or the one that watches over a training or a setup",
            "connected to anew; the next attempt; the setup on another machine"),
        Row("node-frozen", "a machine freezes and goes on", "given up in time, found again; nothing is started twice"),
    ),
    "The service itself": (
        Row("daemon-killed-anywhere", "conductor or worker is killed after any side effect", "goes on; nothing twice, nothing lost"),
        Row("service-killed", "the whole service is killed", "trainings go on; their end and their logs are found"),
        Row("worker-killed", "a worker is killed", "another one takes its jobs over within the lease"),
        Row("worker-hangs", "a worker hangs for longer than its lease", "fenced: what it does then changes nothing"),
        Row("worker-stopped", "a worker is stopped", "its jobs are handed over at once"),
        Row("conductor-killed", "conductors are killed", "another one does; without any, work goes on where they are back"),
        Row("api-killed", "the API is killed", "trainings go on"),
        Row("bus-restart", "RabbitMQ restarts in mid-job", "no job is lost or done twice"),
        Row("bus-cut", "the way to RabbitMQ is cut for two lease times, and nobody is told",
            "as below, although what was sent comes at the end of it"),
        Row("messages-lost-or-doubled", "messages between the daemons are lost, get no answer, or come twice, at once or late",
            "every job comes to its end once: no process is started twice, nothing is counted twice"),
        Row("bus-away", "RabbitMQ is away for two lease times", "jobs in every phase end well; nothing of a living worker is taken over"),
        Row("database-away", "the database is away for two lease times", "as above; the API answers 503 with Retry-After"),
        Row("database-failover", "all connections end, and the database only reads for two lease times", "as above"),
        Row("deadlock", "the database gives a transaction up in a deadlock", "it runs again"),
        Row("worker-killed-in-outage", "a worker dies while the bus is away", "taken over one lease time after the bus is back"),
        Row("power-off-unwatched", "no worker lives for so long that nodes whose processes have ended switch themselves off",
            "SHUTOFF is recognised; replaced, the next attempt"),
        Row("stopped-in-outage", "daemons are stopped while the bus or the cloud does not answer", "they end in time; the jobs go on"),
        Row("rolling-restart", "all daemons are started anew in turn while jobs run", "no job notices"),
        Row("rolling-upgrade", "daemons of one release are replaced by those of the next in turn, and back; a worker comes too soon",
            "no job notices; the worker waits for the conductors"),
        Row("clocks-differ", "the clocks of two workers are two hours apart", "one goes on with what the other has left"),
        Row("orphans", "something of a job that is done, or unknown, is in the cloud", "told, counted, deleted"),
        Row("stuck", "an operator resets a job", "FAILED with the command in its reason; nothing left"),
    ),
    "Programs": (
        Row("exit-code", "a process ends with an exit code", "the others are stopped; FAILED naming task, code and last lines"),
        Row("exit-code-recovered", "a process ends with a code of recover_on_exit_codes", "a new attempt, not counted as an error"),
        Row("restarts-used-up", "a process fails again and again", "as many attempts as max_restarts allows"),
        Row("segfault", "a process is killed by SIGSEGV", "FAILED naming the signal"),
        Row("setup-fails", "the setup command fails", "FAILED before any process starts, with the setup's log"),
        Row("setup-too-long", "the setup command does not end", "FAILED after bootstrap_timeout of its own running time"),
        Row("no-such-command", "the command does not exist", "FAILED with exit code 127"),
        Row("ignores-term", "processes ignore TERM and detach", "killed; none outlives the attempt"),
        Row("ran-too-long", "a job runs for longer than max_run_time", "TIMED_OUT; its outputs are kept"),
        Row("oom-137-nccl", "out of memory, exit 137, SIGSEGV, NCCL and CUDA errors", "told apart by code and log"),
        Row("restarts-pause", "processes fail at every start", "first at once, then after growing pauses; nodes are kept"),
        Row("peer-lost", "a process loses the connection to another one", "who was missed is to blame; if nobody is, it costs no restart"),
        Row("gpu-broken", "a GPU has an error that can't be corrected", "its node is replaced, which counts as a loss"),
        Row("hang", "no process gives a sign of life for hang_timeout", "stacks in the logs; restarted, or FAILED naming task and silence"),
        Row("hang-one", "one process is silent beside others that are not", "a hang only if it has a heartbeat, and that stands still"),
        Row("hang-taken-over", "the service is killed while processes hang", "noticed by who takes over, from the last sign of life on"),
        Row("hang-cut", "nodes can't be reached while processes are silent", "no hang before they answer"),
        Row("log-flood", "a process prints without end", "cut as documented; other jobs and the service's memory do not notice"),
        Row("many-files", "more output files than are brought back", "FAILED naming limit and way out, before one is brought back"),
        Row("disk-full", "a process fails because it has filled its disk", "FAILED naming the full disk; state and last lines are kept"),
        Row("disk-full-borne", "a process goes on with its disk full; the service is killed", "taken over; the log says what is missing"),
        Row("disk-full-stop", "processes are stopped on a full disk", "stopped; what they wrote comes back"),
        Row("log-limit", "a log is larger than is kept", "cut as documented; the process does not notice"),
    ),
    "Checkpoints": (
        Row("checkpoint-node-lost", "the node that wrote checkpoints is lost", "every node has the last saved ones at the next start"),
        Row("checkpoint-on-term", "a program saves when it gets TERM", "what it saves then counts"),
        Row("checkpoint-interrupted", "the service is killed while checkpoints are saved", "the last one that was saved as a whole counts"),
        Row("checkpoint-too-large", "a checkpoint is larger than is saved", "the user is told; the last good one stays"),
        Row("checkpoint-writer-changes", "the next attempt's writer is on another node", "it goes on from what was saved"),
    ),
    "Everything at once": (
        Row("campaign", "seeded faults of all kinds against many jobs", "right outcomes, no line lost, nothing left"),
    ),
    "Users": (
        Row("cancel-queued", "cancel in the queue", "CANCELLED, nothing left"),
        Row("cancel-at-once", "cancel right after submit", "CANCELLED, nothing left, whoever wins the race"),
        Row("cancel-building", "cancel while servers are built, or asked for", "CANCELLED, nothing left"),
        Row("cancel-preparing", "cancel while nodes are made ready", "CANCELLED, nothing left"),
        Row("cancel-pausing", "cancel in the pause before a restart", "CANCELLED at once, nothing left"),
        Row("cancel-running", "cancel while processes run", "CANCELLED, nothing left, logs kept"),
        Row("cancel-collecting", "cancel while outputs are collected", "CANCELLED, nothing left"),
        Row("cancel-cleaning", "cancel in the clean-up", "the known outcome stays"),
        Row("cancel-taken-over", "cancel right after another worker has taken the job over", "CANCELLED, nothing left, logs kept"),
        Row("cancel-service-dead", "cancel while no worker lives", "CANCELLED when one does"),
        Row("delete-live", "a live job is deleted", "cancelled, cleaned up and forgotten"),
        Row("double-submit", "the same request is sent twice (client_token), or again while the first is under way", "one job"),
        Row("image-without-python", "the image has no Python", "said in words at the first connection; FAILED if a second machine says so"),
    ),
}

ROWS: dict[str, Row] = {row.id: row for rows in MATRIX.values() for row in rows}


def proofs() -> dict[str, list[Proof]]:
    """Read which tests are marked with which rows: row id -> its tests, by path and place."""
    found: dict[str, list[Proof]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for row in _marks(node):
                    found.setdefault(row, []).append(Proof(path.relative_to(TESTS), node.name))
    return found


def _marks(function: ast.FunctionDef) -> Iterator[str]:
    for decorator in function.decorator_list:
        for node in ast.walk(decorator):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                yield from (ast.literal_eval(argument) for argument in node.args)


def table() -> str:
    """Give the matrix as Markdown."""
    known = proofs()
    lines = []
    for section, rows in MATRIX.items():
        lines += [f"## {section}", "", "| fault | expected | cloud | tests |", "|---|---|---|---|"]
        for row in rows:
            tests = known.get(row.id, [])
            clouds = " and ".join(name for name, real in (("local", False), ("real", True)) if any(proof.real == real for proof in tests))
            links = "<br>".join(f"[{proof.path}::{proof.test}](../tests/{proof.path})" for proof in tests)
            lines.append(f"| `{row.id}`: {row.fault} | {row.expected} | {clouds} | {links} |")
        lines.append("")
    return "\n".join(lines)
