"""WSGI applications for uWSGI, gunicorn or waitress.

oslo.messaging picks the eventlet backend of oslo.service unless another one is chosen before its first import,
so the choice is made here, before anything else is imported.
"""

import sys

# oslo.service still installs eventlet, and futurist imports it where it is: it shall stay out of the process
sys.modules["eventlet"] = None  # type: ignore[assignment]

from oslo_service import backend  # noqa: E402

backend.init_backend(backend.BackendType.THREADING)
