"""The kinds of faults that a campaign draws from: how often each comes, and for how long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from chaos_fault import Fault
from chaos_fault_cloud import (
    BootsAreSlow,
    BootsFail,
    CellIsDown,
    DeletesAreRefused,
    DeletesAreSlow,
    DoneAllTheSame,
    ImageIsGone,
    PortsAreLeft,
    QuotaShrinks,
    Refused,
    RoomShrinks,
    ServiceIsDown,
    ServiceIsSlow,
    TimesOut,
    TokensExpire,
    TooMany,
)
from chaos_fault_daemons import ClockIsWrong, Drain, Freeze, Kill, RollingRestart
from chaos_fault_nodes import (
    AnotherAtItsAddress,
    Crash,
    Cut,
    GoesToError,
    Hang,
    HostGoesDown,
    LogFlood,
    LongCut,
    ProcessesHang,
    ProcessIsKilled,
    RunnerIsKilled,
    SessionIsKilled,
    Vanish,
)
from chaos_fault_servers import (
    BrokerStops,
    ConnectionsAreKilled,
    ConnectionsBreak,
    DatabaseDies,
    DatabaseStops,
    MessagesSuffer,
    RowsAreLocked,
    WireIsCut,
    WireIsSlow,
)
from chaos_world import World


@dataclass(frozen=True)
class Kind:
    """A kind of fault, how often it is drawn, and for how many seconds it lasts."""

    name: str
    weight: int
    make: Callable[[World, Random], Fault]
    lasts: tuple[float, float] = (0, 0)


KINDS = (
    Kind("daemon killed", 12, Kill, (0, 4)),
    Kind("daemon stands still", 8, Freeze, (0.5, 10)),
    Kind("daemon asked to end", 4, Drain, (0, 2)),
    Kind("rolling restart", 1, RollingRestart),
    Kind("daemon's clock wrong", 4, ClockIsWrong, (1, 15)),
    Kind("broker stopped", 1, BrokerStops, (0, 8)),
    Kind("database stopped", 2, DatabaseStops, (0, 8)),
    Kind("database killed", 1, DatabaseDies, (0, 3)),
    Kind("connections reset", 6, ConnectionsBreak),
    Kind("connections killed", 4, ConnectionsAreKilled),
    Kind("wire cut", 4, WireIsCut, (1, 8)),
    Kind("wire slow", 4, WireIsSlow, (3, 12)),
    Kind("rows locked", 4, RowsAreLocked),
    Kind("messages lost or doubled", 8, MessagesSuffer, (1, 6)),
    Kind("request refused", 14, Refused, (6, 12)),
    Kind("request failed after its effect", 14, DoneAllTheSame, (6, 12)),
    Kind("request timed out", 6, TimesOut, (6, 12)),
    Kind("too many requests", 8, TooMany, (6, 12)),
    Kind("deletion refused", 5, DeletesAreRefused, (6, 12)),
    Kind("cloud service down", 4, ServiceIsDown, (1, 6)),
    Kind("cloud service slow", 4, ServiceIsSlow, (6, 15)),
    Kind("tokens expired", 5, TokensExpire),
    Kind("servers don't boot", 6, BootsFail),
    Kind("slow deletions", 3, DeletesAreSlow, (3, 8)),
    Kind("slow boots", 3, BootsAreSlow, (3, 8)),
    Kind("less room", 3, RoomShrinks, (3, 8)),
    Kind("less quota", 3, QuotaShrinks, (3, 8)),
    Kind("ports left", 3, PortsAreLeft, (3, 8)),
    Kind("image gone", 1, ImageIsGone, (0, 2)),
    Kind("cell down", 4, CellIsDown, (1, 10)),
    Kind("node crashed", 6, Crash),
    Kind("node gone", 6, Vanish),
    Kind("node in ERROR", 6, GoesToError),
    Kind("host down", 5, HostGoesDown),
    Kind("another host key", 3, AnotherAtItsAddress),
    Kind("node hung", 5, Hang, (1, 8)),
    Kind("node cut off", 6, Cut, (1, 8)),
    Kind("runner killed", 5, RunnerIsKilled),
    Kind("runner's session killed", 5, SessionIsKilled),
    Kind("process killed", 4, ProcessIsKilled),
    Kind("processes hang", 4, ProcessesHang),
    Kind("log flood", 6, LogFlood),
)
LONG_CUT = Kind("node cut off for two minutes", 0, LongCut, (125, 125))
LONG_OUTAGE = Kind("database stopped for two minutes", 0, DatabaseStops, (120, 120))


def draw_fault(seed: int, number: int, kinds: Sequence[Kind] = KINDS) -> tuple[Kind, float, Random]:
    """Give the fault of a number, how long it lasts, and what its own choices are drawn from: the same for the same seed and kinds."""
    draw = Random(f"{seed} fault {number}")
    [kind] = draw.choices(kinds, [kind.weight for kind in kinds])
    return kind, draw.uniform(*kind.lasts), draw
