"""Entry points of the daemons and tools.

oslo.messaging picks the eventlet backend of oslo.service unless another one is chosen before its first import,
so every command chooses here, before anything else is imported.
"""

from oslo_service import backend

backend.init_backend(backend.BackendType.THREADING)
