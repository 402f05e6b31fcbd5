"""The WSGI application: every service below its prefix, counted and troubled by faults."""

from __future__ import annotations

import logging
import re
import uuid

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from cml_nova.localcloud import (
    compute,
    compute_admin,
    errors,
    faults,
    flavors,
    floatingips,
    identity,
    image,
    network,
    neutron,
    nova,
    security_groups,
    unified_limits,
)
from cml_nova.localcloud.cloud import Cloud
from cml_nova.localcloud.faults import SERVICES, HTTPFault
from cml_nova.localcloud.web import cloud as current_cloud

LOG = logging.getLogger(__name__)
_RENDER = {"identity": identity.render, "compute": nova.render, "image": image.render, "network": neutron.render}
_PLACEHOLDER = re.compile(r"<[^>]*>")
_VERSION = re.compile(r"^/v[0-9.]+")


def create_app(cloud: Cloud) -> Flask:
    """Give the application that serves a cloud."""
    app = Flask("cml_nova.localcloud", static_folder=None)
    app.extensions["cloud"] = cloud
    app.url_map.strict_slashes = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    for module, prefix in ((identity, "/identity"), (unified_limits, "/identity"),
                           (compute, "/compute"), (flavors, "/compute"), (compute_admin, "/compute"),
                           (image, "/image"), (network, "/network"), (security_groups, "/network"), (floatingips, "/network"),
                           (faults, "")):
        app.register_blueprint(module.blueprint, url_prefix=prefix)
    app.before_request(_before)
    app.after_request(_after)
    app.register_error_handler(errors.ApiError, _error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _crash)
    return app


def _service() -> tuple[str, str]:
    """Give the service that the request is for, and the path after its prefix."""
    _, prefix, *rest = request.path.split("/", 2)
    return (prefix, "/" + "".join(rest)) if prefix in SERVICES else ("", request.path)


def _before() -> Response | None:
    g.request_id = f"req-{uuid.uuid4()}"
    service, path = _service()
    if not service:
        return None
    rule = request.url_rule.rule.removeprefix(f"/{service}") if request.url_rule else path
    current_cloud().faults.count(service, request.method, _VERSION.sub("", _PLACEHOLDER.sub("{id}", rule)) or "/")
    fault = current_cloud().faults.take(service, request.method, path)
    if fault is None:
        return None
    if fault.when == "after":
        g.fault = fault
        return None
    return _suffer(fault)


def _suffer(fault: HTTPFault) -> Response | None:
    if fault.delay:
        current_cloud().faults.sleep(fault.delay)
    if not fault.status:
        return None
    response = _RENDER[_service()[0]](errors.ApiError(fault.status, "The fault API made this request fail.", "InjectedFault"))
    if fault.retry_after is not None:
        response.headers["Retry-After"] = str(fault.retry_after)
    return response


def _after(response: Response) -> Response:
    fault = g.pop("fault", None)
    response = (_suffer(fault) if fault else None) or response
    request_id = g.get("request_id", "")
    response.headers["X-Openstack-Request-Id"] = request_id
    if request.path.startswith("/compute/"):
        version = nova.microversion_headers()
        response.headers.update({"X-Compute-Request-Id": request_id, **version})
    return response


def _error(error: errors.ApiError) -> Response:
    service, _ = _service()
    if service:
        return _RENDER[service](error)
    response = jsonify({"error": {"code": error.status, "message": error.message}})
    response.status_code = error.status
    return response


def _http_error(error: HTTPException) -> Response:
    if error.code == 404:
        return _error(errors.not_found("The resource could not be found.", "HTTPNotFound"))
    return _error(errors.ApiError(error.code or 500, error.description or error.name, f"HTTP{error.name.replace(' ', '')}"))


def _crash(error: Exception) -> Response:
    LOG.exception("a request to the local cloud failed: %s %s", request.method, request.path)
    return _error(errors.ApiError(500, f"Unexpected API Error. {type(error).__name__}", "HTTPInternalServerError"))
