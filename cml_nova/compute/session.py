"""Whose credentials act. A mode in which jobs belong to their users' projects would change this module alone."""

from __future__ import annotations

from http import cookiejar
from typing import Any

import openstack
import requests
from keystoneauth1 import loading as ks_loading
from keystoneauth1 import plugin as ks_plugin
from keystoneauth1 import session as ks_session
from openstack import connection as sdk_connection
from oslo_config import cfg

from cml_nova import exception
from cml_nova.conf import cloud as cloud_conf

_APP = "cml_nova"
#: connections kept to each endpoint: more than there are threads that use one at a time
_POOL = 64


def service_connection(conf: cfg.ConfigOpts) -> sdk_connection.Connection:
    """Connect as the service itself: by ``[cloud] cloud`` from clouds.yaml, or by keystoneauth's options in [cloud].

    Nothing is sent until first use; then one token serves until it expires or is refused. Threads may share the connection.

    :raises CloudRefused, keystoneauth1.exceptions.ClientException, openstack.exceptions.ConfigException: the options don't make an
        account.
    """
    options = conf.cloud
    if options.cloud:
        connection = openstack.connect(cloud=options.cloud, region_name=options.region_name, interface=options.interface, app_name=_APP,
                                       strict_proxies=True, api_timeout=options.request_timeout)
        _prepare(connection.session.session)
        return connection
    cloud_conf.register_auth_opts(conf)
    auth = ks_loading.load_auth_from_conf_options(conf, cloud_conf.GROUP)
    if auth is None:
        raise exception.CloudRefused("The group [cloud] names no account: set cloud, or auth_type and what it needs.")
    session = ks_loading.load_session_from_conf_options(conf, cloud_conf.GROUP, auth=auth)
    session.timeout = options.request_timeout
    _prepare(session.session)
    # A catalog without Nova would else be remembered for good.
    return _connection(options, session, strict=True)


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

    def connect(self, auth: ks_plugin.BaseAuthPlugin) -> sdk_connection.Connection:
        """Connect as the user; makes no token request.

        :param auth: what keystonemiddleware puts into ``environ["keystone.token_auth"]``.
        """
        session = ks_session.Session(
            auth=auth, session=self._http, verify=self._template.verify, cert=self._template.cert, app_name=_APP,
            timeout=self._options.request_timeout, discovery_cache=self._template._discovery_cache)
        return _connection(self._options, session, strict=False)


def user_connection(conf: cfg.ConfigOpts, auth: ks_plugin.BaseAuthPlugin) -> sdk_connection.Connection:
    """Connect once as a user; where many requests come in, keep a ``UserConnections``."""
    return UserConnections(conf).connect(auth)


def _connection(options: Any, session: ks_session.Session, strict: bool) -> sdk_connection.Connection:
    return sdk_connection.Connection(session=session, region_name=options.region_name, interface=options.interface, app_name=_APP,
                                     strict_proxies=strict)


def _prepare(http: requests.Session) -> None:
    """Keep as many connections alive as there may be threads (a discarded one costs a handshake), and no cookies: users share it."""
    http.cookies.set_policy(cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    for scheme in list(http.adapters):
        http.mount(scheme, ks_session.TCPKeepAliveAdapter(pool_maxsize=_POOL))
