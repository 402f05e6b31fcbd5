"""Settings of the whole suite: the threading backend, and no eventlet anywhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

from oslo_service import backend

backend.init_backend(backend.BackendType.THREADING)


class _NoEventlet(MetaPathFinder):
    """Makes any import of eventlet or greenlet's friends fail, as on a host that does not have them."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] == "eventlet":
            raise ImportError("eventlet is not used here")
        return None


for _name in [name for name in sys.modules if name.partition(".")[0] == "eventlet"]:
    del sys.modules[_name]
sys.meta_path.insert(0, _NoEventlet())
