"""WSGI applications for uWSGI, gunicorn or waitress.

oslo.messaging picks the eventlet backend of oslo.service unless another one is chosen before its first import,
so the choice is made here, before anything else is imported.
"""

from oslo_service import backend

backend.init_backend(backend.BackendType.THREADING)
