"""The nodes from outside (SSH) and from inside (the runner).

The public names come from here; ``machine`` and ``passage``, which load paramiko, are imported when one of their names is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cml_nova.remote.keys import generate_keypair
from cml_nova.remote.protocol import Hello, Idle, ProcessState
from cml_nova.remote.snapshots import HeldFile, Snapshot
from cml_nova.remote.userdata import cloud_config

if TYPE_CHECKING:
    from cml_nova.remote.login import Access
    from cml_nova.remote.machine import Leave, Machine, Options, ProcessSpec
    from cml_nova.remote.passage import Passage

__all__ = ["Access", "HeldFile", "Hello", "Idle", "Leave", "Machine", "Options", "Passage", "ProcessSpec", "ProcessState", "Snapshot",
           "cloud_config", "generate_keypair"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cml_nova.remote import machine, passage
    return getattr(passage if name == "Passage" else machine, name)
