"""The jobs of a campaign: what they do, drawn from a seed, and the ends that are right for each.

Their processes are plain shell scripts, so that dozens of them weigh little. Each enters the ledger, prints numbered lines, and does
what the ledger tells it; what it has to write is known line by line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from chaos_ledger import Entry

METRIC_EVERY = 10
SETUP_LINES = 5
#: exit codes of a process that fails, and of one that has come to the end of what it may do at a time
FAILS, PAUSES = 3, 9
#: how many lines a process prints that goes on from its checkpoint, and how many of them in an attempt
CHECKPOINTED, AT_A_TIME = 60, 25

#: seconds; longer than any node stands still that goes on
HANG_TIMEOUT = 20
#: what the runner writes to the logs of processes that hang, after what they have printed
_HANG_NOTE = "\ncml: a hang: "

_ENTER = r'''
exec 3<>"/dev/tcp/${LEDGER%:*}/${LEDGER#*:}"
echo "$RUN $attempt $task $$ $HOME" >&3

# Waits for a moment, and does what the ledger says meanwhile.
listen() {
    local word count
    if read -r -t 0.2 -u 3 word count; then
        if [ "$word" = flood ]; then for ((; count > 0; count--)); do say; done; fi
    elif [ $? -le 128 ]; then
        exit 70  # the ledger is gone, and with it the campaign
    fi
}
'''

_SETUP = f'''
attempt=0 task=setup
say() {{ :; }}
. ./enter.sh
for ((i = 0; i < {SETUP_LINES}; i++)); do
    echo "setup $i"
    listen
done
touch was-set-up
exit $1
'''

#: arguments: how it ends (an exit code; "endless"; "errors": as the ledger says; "checkpoint": it needs several attempts), how many lines
_TRAIN = f'''
attempt=$CML_ATTEMPT task=$CML_ROLE:$CML_ROLE_INDEX end=$1 lines=$2 number=0
if [ "$end" = checkpoint ] && [ -e "$CML_CHECKPOINT_DIR/number" ]; then read -r number <"$CML_CHECKPOINT_DIR/number"; fi
first=$number
say() {{
    echo "line $number"
    ((number % {METRIC_EVERY})) || printf 'CML_METRIC {{"name": "loss", "value": %s, "step": %s}}\\n' $number $number
    ((++number))
}}
. ./enter.sh
[ "$SETUP" != yes ] || [ -e was-set-up ] || {{ echo "no setup was made"; exit 71; }}
echo "begin $attempt $task from $number"
while [ "$end" = endless ] || ((number < lines)); do
    say
    listen
    if [ "$end" = checkpoint ]; then
        echo $number >"$CML_CHECKPOINT_DIR/new" && mv "$CML_CHECKPOINT_DIR/new" "$CML_CHECKPOINT_DIR/number"
        if ((number >= first + {AT_A_TIME} && number < lines)); then echo "pause $number"; exit {PAUSES}; fi
    fi
done
code=$end
if [ "$end" = checkpoint ]; then code=0; fi
if [ "$end" = errors ]; then
    echo ask >&3
    until read -r word code <&3 && [ "$word" = exit ]; do :; done
fi
if [ "$code" != 0 ] && [ $task = worker:0 ]; then echo "fail $number"; exit $code; fi
for ((i = 0; i < 200; i++)); do echo "model of $task"; done >"$CML_OUTPUT_DIR/model.txt"
echo "end $number"
'''

FILES = {"enter.sh": _ENTER, "setup.sh": _SETUP, "train.sh": _TRAIN}
SETUP_LOG = "".join(f"setup {number}\n" for number in range(SETUP_LINES))
MODEL = "model of {task}\n"
MODEL_LINES = 200

_FIRST = re.compile(r"begin (\d+) (\S+) from (\d+)\n")
_LAST = re.compile(r"(end|fail|pause) (\d+)\n\Z")


@dataclass(frozen=True)
class Kind:
    """A kind of job.

    :ivar right: the outcomes that are right for it, whatever happens to the cloud and the service.
    :ivar draw: gives what of the document is its own.
    """

    name: str
    weight: int
    right: tuple[str, ...]
    draw: Callable[[Random], dict[str, Any]]


def _train(end: str | int, lines: int) -> dict[str, Any]:
    return {"command": ["bash", "train.sh", str(end), str(lines)]}


def _errors(draw: Random) -> dict[str, Any]:
    return {**_train("errors", draw.randint(5, 20)), "max_restarts": draw.randint(1, 2)}


KINDS = (
    Kind("succeeds", 30, ("SUCCEEDED",), lambda draw: _train(0, draw.randint(5, 50))),
    Kind("fails", 8, ("FAILED",), lambda draw: {**_train(FAILS, draw.randint(3, 20)), "max_restarts": draw.randint(0, 1)}),
    Kind("fails, then succeeds", 12, ("SUCCEEDED",), _errors),
    Kind("is cancelled", 20, ("CANCELLED",), lambda draw: _train("endless", 0)),
    Kind("is cancelled at its end", 6, ("CANCELLED", "SUCCEEDED"), lambda draw: _train(0, draw.randint(3, 10))),
    Kind("runs too long", 8, ("TIMED_OUT",), lambda draw: {**_train("endless", 0), "max_run_time": draw.randint(3, 10)}),
    Kind("needs its checkpoint", 8, ("SUCCEEDED",),
         lambda draw: {**_train("checkpoint", CHECKPOINTED), "recover_on_exit_codes": [PAUSES]}),
    Kind("can't be set up", 4, ("FAILED",), lambda draw: {**_train(0, 10), "setup": ["bash", "setup.sh", "1"]}),
    Kind("finds no room", 4, ("TIMED_OUT",),
         lambda draw: {**_train(0, 10), "workers": 20, "flavor": "gpu.large", "max_wait_time": draw.randint(3, 10)}),
)
_STATUSES = ("QUEUED", "BUILDING", "PREPARING", "RUNNING", "COLLECTING", "CLEANING")


@dataclass
class Job:
    """A job as it was drawn, and what is known of it.

    :ivar cancel_at: the status in which it is to be cancelled, and how many seconds after it has come to that.
    :ivar right: the outcomes that are right, "FAILED CONFIG" for one with this cause alone; what happens to its processes may add some.
    :ivar hung: attempts whose processes were made to stand still.
    :ivar hurt: what was done to its processes and nodes, with the time.
    """

    number: int
    kind: Kind
    document: dict[str, Any]
    cancel_at: tuple[str, float] | None
    right: set[str] = field(default_factory=set)
    hurt: list[str] = field(default_factory=list)
    hung: set[int] = field(default_factory=set)
    errors_left: int = 0
    told: dict[int, str] = field(default_factory=dict)
    id: str = ""

    @property
    def run(self) -> str:
        """Its name in the ledger."""
        return f"job{self.number}"

    @property
    def tasks(self) -> list[str]:
        return [f"worker:{index}" for index in range(self.document["workers"])]

    def answer(self, entry: Entry) -> str:
        """Tell a process how it is to end: only worker:0 fails, and only as often as the job may start again."""
        if entry.task != "worker:0":
            return "exit 0"
        if entry.attempt not in self.told:
            self.told[entry.attempt] = f"exit {FAILS if self.errors_left else 0}"
            self.errors_left -= self.errors_left > 0
        return self.told[entry.attempt]


def draw_job(seed: int, number: int, ledger_address: str, package: str) -> Job:
    """Give the job of a number: the same for the same seed."""
    draw = Random(f"{seed} job {number}")
    [kind] = draw.choices(KINDS, [kind.weight for kind in KINDS])
    setup = draw.random() < 0.5
    own = kind.draw(draw)
    document = {
        "name": f"campaign {number} {kind.name}".replace("'", ""), "client_token": f"campaign-{seed}-{number}", "image": "plain",
        "flavor": draw.choice(["cpu.small", "gpu.small", "gpu.small"]), "workers": draw.choice([1, 1, 2, 2, 3]),
        "source": {"package": package}, **({"setup": ["bash", "setup.sh", "0"]} if setup else {}), **own,
        "env": {"LEDGER": ledger_address, "RUN": f"job{number}", "SETUP": "yes" if setup else "no"},
    }
    status = "COLLECTING" if kind.name == "is cancelled at its end" else draw.choice(_STATUSES[:4])
    cancel_at = (status, draw.uniform(0, 3)) if kind.name.startswith("is cancelled") else None
    if draw.random() < 0.4:
        document["hang_timeout"] = HANG_TIMEOUT
    return Job(number, kind, document, cancel_at, set(kind.right), errors_left=own.get("max_restarts", 0))


def has_passed(status: str, wanted: str) -> bool:
    """Tell whether a job has come as far as a status, or further."""
    return status not in _STATUSES or _STATUSES.index(status) >= _STATUSES.index(wanted)


def printed(log: str) -> str:
    """Give what a process has printed that was found to hang."""
    return log.partition(_HANG_NOTE)[0]


def read_log(attempt: int, task: str, log: str) -> tuple[str, str]:
    """Check a training's log against what it has to be, as far as it goes.

    :returns: what is wrong, empty if nothing; the word with which it ends, empty if it was cut off.
    """
    begin = _FIRST.match(log)
    if not begin:
        opening = f"begin {attempt} {task} from "
        return ("" if opening.startswith(log) or re.fullmatch(re.escape(opening) + r"\d+", log) else f"begins with {log[:60]!r}"), ""
    if (begin[1], begin[2]) != (str(attempt), task):
        return f"is that of {begin[2]} in attempt {begin[1]}", ""
    last = _LAST.search(log)
    first, count = int(begin[3]), log.count("\nline ")
    wanted = begin[0] + _lines(first, first + count + (0 if last else 1)) + (f"{last[1]} {first + count}\n" if last else "")
    if last:
        return ("" if log == wanted else _difference(log, wanted)), last[1]
    return ("" if wanted.startswith(log) or _torn(log, begin[0], first, count) else _difference(log, wanted)), ""


def _torn(log: str, begin: str, first: int, count: int) -> bool:
    """Tell whether a log ends in the midst of its last word."""
    whole = begin + _lines(first, first + count)
    return log.startswith(whole) and any(f"{word} {first + count}\n".startswith(log[len(whole):]) for word in ("end", "fail", "pause"))


def _lines(first: int, end: int) -> str:
    text = []
    for number in range(first, end):
        text.append(f"line {number}\n")
        if number % METRIC_EVERY == 0:
            text.append(f'CML_METRIC {{"name": "loss", "value": {number}, "step": {number}}}\n')
    return "".join(text)


def steps(log: str) -> list[int]:
    """List the steps of the metrics that whole lines of a log tell."""
    return [int(step) for step in re.findall(r'^CML_METRIC \{"name": "loss", "value": \d+, "step": (\d+)\}$', log, re.MULTILINE)]


def _difference(text: str, wanted: str) -> str:
    have, want = text.splitlines(), wanted.splitlines()
    place = next((i for i, (one, other) in enumerate(zip(have, want, strict=False)) if one != other), min(len(have), len(want)))
    return f"has {len(have)} lines; from line {place}: {have[place:place + 3]} instead of {want[place:place + 3]}"
