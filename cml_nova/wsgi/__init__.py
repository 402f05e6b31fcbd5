"""WSGI applications for uWSGI, gunicorn or waitress.

oslo.messaging picks the eventlet backend of oslo.service unless another one is chosen before its first import,
so the choice is made here, before anything else is imported.
"""

import signal
import sys

if "uwsgi" in sys.modules:
    # uWSGI's master tells its processes to end by HUP, which one that is still loading would miss, and the master wait for ever.
    # When the application is loaded, uWSGI handles the signal itself.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# oslo.service still installs eventlet, and futurist imports it where it is: it shall stay out of the process
sys.modules["eventlet"] = None  # type: ignore[assignment]

from oslo_service import backend  # noqa: E402

backend.init_backend(backend.BackendType.THREADING)
