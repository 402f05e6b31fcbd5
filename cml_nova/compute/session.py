"""Whose credentials act. A mode in which jobs belong to their users' projects would change this module alone."""

from __future__ import annotations

from http import cookiejar
from typing import Any

import openstack
import requests
from keystoneauth1 import adapter as ks_adapter
from keystoneauth1 import exceptions as ks_exceptions
from keystoneauth1 import loading as ks_loading
from keystoneauth1 import plugin as ks_plugin
from keystoneauth1 import session as ks_session
from openstack import connection as sdk_connection
from openstack import exceptions as sdk_exceptions
from oslo_config import cfg

from cml_nova import exception
from cml_nova.conf import cloud as cloud_conf

_APP = "cml_nova"
#: major versions of the APIs that users' requests need: lowest, highest
_VERSIONS = {"compute": ("2.1", "2.latest"), "image": ("2", "2.latest"), "network": ("2.0", "2.latest"), "identity": ("3", "3.latest")}
#: connections kept to each endpoint: more than there are threads that use one at a time
_POOL = 64


def service_connection(conf: cfg.ConfigOpts) -> sdk_connection.Connection:
    """Connect as the service itself: by ``[cloud] cloud`` from clouds.yaml, or by keystoneauth's options in [cloud].

    Nothing is sent until first use; then one token serves until it expires or is refused. Threads may share the connection.

    :raises ConfigurationError: the options don't make an account.
    """
    options = conf.cloud
    if options.cloud:
        try:
            connection = openstack.connect(cloud=options.cloud, region_name=options.region_name, interface=options.interface, app_name=_APP,
                                           strict_proxies=True, api_timeout=options.request_timeout)
        except sdk_exceptions.ConfigException as error:
            raise exception.ConfigurationError(f"[cloud] cloud = {options.cloud}: {error}") from error
        _prepare(connection.session.session)
        unpaced(connection.session)
        return connection
    cloud_conf.register_auth_opts(conf)
    try:
        auth = ks_loading.load_auth_from_conf_options(conf, cloud_conf.GROUP)
        session = ks_loading.load_session_from_conf_options(conf, cloud_conf.GROUP, auth=auth)
    except (ks_exceptions.ClientException, ValueError) as error:
        raise exception.ConfigurationError(f"[cloud] auth_type = {options.auth_type}: {error}") from error
    if auth is None:
        raise exception.ConfigurationError("[cloud] names no account: set cloud, or auth_type and what it needs; tools/register-service "
                                           "writes it")
    session.timeout = options.request_timeout
    _prepare(session.session)
    unpaced(session)
    # strict: a catalog without Nova would else be remembered for good
    return sdk_connection.Connection(session=session, region_name=options.region_name, interface=options.interface, app_name=_APP,
                                     strict_proxies=True)


class _Adapter(ks_adapter.Adapter):
    """Sends nothing where it isn't known where to.

    keystoneauth takes the endpoint of a service that could not be asked for its versions for that of the version itself. The service
    answers 404 there, which would be taken for its word about an image or a flavor.
    """

    def request(self, url: str, method: str, **kwargs: Any) -> Any:
        if self.get_api_major_version() is None:
            raise ks_exceptions.DiscoveryFailure(f"the {self.service_type} service did not say which versions it has")
        return super().request(url, method, **kwargs)


class UserConnection:
    """What acts with one user's token: the part of openstacksdk's ``Connection`` that ``rest`` uses.

    A whole one costs 7 ms of processor time for each service that it is used for; too much for one that serves one request.
    """

    def __init__(self, session: ks_session.Session, interface: str, region_name: str | None) -> None:
        self.session = session
        self.compute, self.image, self.network, self.identity = (
            _Adapter(
                session, service_type=service, interface=interface, region_name=region_name, min_version=low, max_version=high)
            for service, (low, high) in _VERSIONS.items())


class UserConnections:
    """Makes connections that act with the token of whoever asks, sharing sockets and what was discovered of the endpoints.

    Without the sharing each request of a user would cost a TLS handshake and a discovery request per service.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        cloud_conf.register_auth_opts(conf)
        self._options = conf.cloud
        self._template = ks_loading.load_session_from_conf_options(conf, cloud_conf.GROUP)
        self._http = self._template.session
        _prepare(self._http)

    def connect(self, auth: ks_plugin.BaseAuthPlugin) -> UserConnection:
        """Connect as the user; makes no token request.

        :param auth: what keystonemiddleware puts into ``environ["keystone.token_auth"]``.
        """
        session = ks_session.Session(
            auth=auth, session=self._http, verify=self._template.verify, cert=self._template.cert, app_name=_APP,
            timeout=self._options.request_timeout, discovery_cache=self._template._discovery_cache)
        return UserConnection(session, self._options.interface, self._options.region_name)


def unpaced(session: ks_session.Session) -> ks_session.Session:
    """Have a session send requests at once, whatever those who use it say; give it.

    Each of keystoneauth's adapters paces its requests, even where no pace was asked for. It goes by the wall clock: one that was made while
    that was ahead sends nothing until the time is the same again, hours after somebody has set the clock right.
    """
    request = session.request
    session.request = lambda *args, **kwargs: request(*args, **{**kwargs, "rate_semaphore": None})
    return session


def _prepare(http: requests.Session) -> None:
    """Keep as many connections alive as there may be threads (a discarded one costs a handshake), and no cookies: users share it."""
    http.cookies.set_policy(cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    for scheme in list(http.adapters):
        http.mount(scheme, ks_session.TCPKeepAliveAdapter(pool_maxsize=_POOL))
