"""Settings of the whole suite: no eventlet anywhere, and the threading backend."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class _NoEventlet(MetaPathFinder):
    """Makes any import of eventlet fail, as on a host that does not have it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] == "eventlet":
            raise ImportError("eventlet is not used here")
        return None


sys.meta_path.insert(0, _NoEventlet())

from oslo_service import backend  # noqa: E402 -- the import that must find no eventlet

backend.init_backend(backend.BackendType.THREADING)

# A shell has what it runs in the background ignore Ctrl-C, and so would all commands that are started here, some of which are to heed it.
signal.signal(signal.SIGINT, signal.default_int_handler)
