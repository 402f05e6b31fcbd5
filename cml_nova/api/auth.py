"""Who asks, and may they? Tokens are checked by keystonemiddleware, permissions by oslo.policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import flask
from keystoneauth1 import exceptions as ks_exceptions
from keystonemiddleware import auth_token
from keystonemiddleware.auth_token import _exceptions as ksm_exceptions
from oslo_config import cfg

from cml_nova import exception
from cml_nova.api.memory import Memory
from cml_nova.api.microversion import SERVICE_TYPE
from cml_nova.api.services import services
from cml_nova.compute.session import unpaced
from cml_nova.context import RequestContext

#: policy of routes that everybody may use
OPEN = "open"

_CACHE_KEY = "cml_nova.token_cache"
_NO_KEYSTONE_KEY = "cml_nova.no_keystone"
_NO_KEYSTONE = (ks_exceptions.ConnectFailure, ks_exceptions.DiscoveryFailure, ks_exceptions.RequestTimeout, ksm_exceptions.ServiceError)


class _NoKeystoneError(Exception):
    """A token can't be judged now."""


class _AuthProtocol(auth_token.AuthProtocol):
    """keystonemiddleware's, which calls a token invalid when Keystone can't be asked: clients would throw good tokens away."""

    def _create_session(self, **kwargs: Any) -> Any:
        return unpaced(super()._create_session(**kwargs))

    def fetch_token(self, token: str, **kwargs: Any) -> Any:
        try:
            return super().fetch_token(token, **kwargs)
        except ks_exceptions.EndpointNotFound as error:
            raise _NoKeystoneError from error
        except ksm_exceptions.InvalidToken as error:
            if isinstance(error.__context__, _NO_KEYSTONE):
                raise _NoKeystoneError from error
            raise


def require_tokens(app: Any, conf: cfg.ConfigOpts) -> Any:
    """Wrap a WSGI application so that each request's token is checked.

    Requests without a valid token are let through, marked as such: the application answers them itself, in the form of all
    its errors, and some routes need no token.
    """
    checked = _AuthProtocol(app, {
        "oslo_config_config": conf, "delay_auth_decision": True, "service_type": SERVICE_TYPE, "cache": _CACHE_KEY})
    # The middleware's own in-process cache is deprecated, unbounded, not shared by threads, and looks through all entries at each request.
    cache = None if conf.keystone_authtoken.memcached_servers else Memory[bytes]()

    def with_cache(environ: dict[str, Any], start_response: Any) -> Any:
        if cache is not None:
            environ[_CACHE_KEY] = cache
        try:
            return checked(environ, start_response)
        except _NoKeystoneError:
            environ[_NO_KEYSTONE_KEY] = True
            return app(environ, start_response)

    return with_cache


def load_context() -> None:
    """Note in ``flask.g.context`` who asks; None without a valid token."""
    environ = flask.request.environ
    flask.g.context = None
    flask.g.authorized = False
    if services().conf.api.auth_strategy == "keystone":
        uri = services().conf.keystone_authtoken.www_authenticate_uri
        flask.g.challenge = f'Keystone uri="{uri}"' if uri else "Keystone"
        known = environ.get("HTTP_X_IDENTITY_STATUS") == "Confirmed" and _NO_KEYSTONE_KEY not in environ
    else:
        known = bool(environ.get("HTTP_X_USER_ID"))
    # Made even for nobody: it puts the request's id into the log.
    context = RequestContext.from_environ(environ)
    if known:
        flask.g.context = context


def current() -> RequestContext:
    """Who asks.

    :raises Unauthorized: nobody that Keystone knows.
    :raises ServiceUnavailable: Keystone can't be asked.
    """
    if _NO_KEYSTONE_KEY in flask.request.environ:
        raise exception.ServiceUnavailable("Keystone can't be reached at this time to check the token; try again later.")
    if flask.g.context is None:
        raise exception.Unauthorized("The request needs a valid token of Keystone in the header X-Auth-Token.")
    return cast(RequestContext, flask.g.context)


def authorize(rule: str, target: Mapping[str, Any] | None = None) -> None:
    """Assert that the policy allows this to whoever asks; each route does so before anything else.

    :param rule: name without the prefix "cml:", or ``OPEN``.
    :param target: project_id and user_id of the resource; None for the project of whoever asks.
    :raises Unauthorized: there is no valid token.
    :raises PolicyNotAuthorized, InvalidScope: (of oslo.policy) the answer is no.
    """
    if rule != OPEN:
        context = current()
        if context.project_id is None:
            raise exception.Forbidden("The token must be scoped to a project; ask Keystone for one that is.")
        own = {"project_id": context.project_id, "user_id": context.user_id}
        services().enforcer.authorize(f"cml:{rule}", own if target is None else dict(target), context, do_raise=True)
    flask.g.authorized = True


def allowed(rule: str) -> bool:
    """Tell whether the policy allows something beyond what the route needs."""
    context = current()
    own = {"project_id": context.project_id, "user_id": context.user_id}
    return bool(services().enforcer.authorize(f"cml:{rule}", own, context))


def assert_authorized(response: flask.Response) -> flask.Response:
    """Fail loudly where a route answers without having asked the policy.

    :raises AssertionError: it did; a bug.
    """
    if response.status_code < 400 and not flask.g.get("authorized"):
        raise AssertionError(f"{flask.request.endpoint} answered without a policy check")
    return response
