"""Tokens, sessions, the catalog, and error bodies as openstacksdk shows them."""

from __future__ import annotations

import uuid

import openstack
import pytest
from keystoneauth1 import loading
from keystonemiddleware.auth_token import _user_plugin
from openstack import connection as sdk_connection
from openstack import exceptions as sdk
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova import exception
from cml_nova.compute import session
from cml_nova.compute.catalog import Catalog, Image
from cml_nova.compute.fleet import Fleet
from cml_nova.conf.cloud import register_auth_opts
from tests.contract.conftest import Target
from tests.harness.cloud import LocalCloud


def plain_conf(**options: object) -> cfg.ConfigOpts:
    """Make options whose group [cloud] has what is given."""
    made = cfg.ConfigOpts()
    cml_conf.register_opts(made)
    register_auth_opts(made)
    made([], project="cml_nova")
    if "auth_type" in options:
        made.set_override("auth_type", options["auth_type"], group="cloud")
        made.register_opts(loading.get_auth_plugin_conf_options(str(options["auth_type"])), group="cloud")
    for name, value in options.items():
        made.set_override(name, value, group="cloud")
    return made


def test_the_options_of_the_service_make_a_connection(target: Target) -> None:
    auth = openstack.config.OpenStackConfig().get_one(cloud=target.cloud).config["auth"]
    fleet = Fleet(options := plain_conf(auth_type="password", **auth), session.service_connection(options))
    assert fleet.all_servers() == []


def test_no_account_is_a_clear_error() -> None:
    with pytest.raises(exception.ConfigurationError, match=r"\[cloud\]"):
        session.service_connection(plain_conf())


def test_a_wrong_password_is_a_clear_error(target: Target) -> None:
    auth = openstack.config.OpenStackConfig().get_one(cloud=target.cloud).config["auth"] | {"password": "wrong"}
    options = plain_conf(auth_type="password", **auth)
    with pytest.raises(exception.Unauthorized):
        Fleet(options, session.service_connection(options)).all_servers()


def test_a_revoked_token_is_replaced(connection: sdk_connection.Connection, fleet: Fleet) -> None:
    before = connection.session.get_token()
    connection.identity.delete("/auth/tokens", headers={"X-Subject-Token": before})
    assert fleet.all_servers() == []


@pytest.mark.local_cloud
def test_tokens_that_end_cost_one_request_each(local: LocalCloud, connection: sdk_connection.Connection, fleet: Fleet) -> None:
    fleet.all_servers()
    local.fault("tokens", expire="all")
    local.forget_calls()
    for _ in range(3):
        assert fleet.all_servers() == []
    assert local.calls() == {"compute GET /servers/detail": 4, "identity POST /auth/tokens": 1}


@pytest.mark.local_cloud
def test_a_create_whose_token_has_ended_is_made_once(local: LocalCloud, connection: sdk_connection.Connection, fleet: Fleet) -> None:
    job_id = str(uuid.uuid4())
    fleet.all_servers()
    local.fault("tokens", expire="all")
    fleet.ensure_group(job_id)
    local.fault("tokens", expire="all")
    fleet.ensure_group(job_id)
    assert len(fleet.groups(job_id)) == 1
    fleet.delete_groups(job_id)


def test_a_users_token_is_used_as_it_is(target: Target, connection: sdk_connection.Connection) -> None:
    access = connection.session.auth.get_access(connection.session)
    users = session.UserConnections(plain_conf())
    catalog = Catalog(users.connect(_user_plugin.UserAuthPlugin(access, None)))
    assert catalog.get_image(target.image).name == target.image
    assert catalog.get_flavor(target.flavor).name == target.flavor
    assert catalog.get_network(target.network)


@pytest.mark.local_cloud
def test_a_user_costs_no_token_and_no_discovery(target: Target, local: LocalCloud, connection: sdk_connection.Connection) -> None:
    access = connection.session.auth.get_access(connection.session)
    users = session.UserConnections(plain_conf())
    for _ in range(2):
        local.forget_calls()
        catalog = Catalog(users.connect(_user_plugin.UserAuthPlugin(access, None)))
        catalog.find_image("custom")
        catalog.get_flavor(target.flavor)
        catalog.get_network(target.network)
    assert local.calls() == {"compute GET /flavors/detail": 1, "image GET /images": 1, "network GET /networks": 1}


@pytest.mark.local_cloud
def test_versions_that_can_not_be_asked_for_are_no_word_about_images(target: Target, local: LocalCloud,
                                                                     connection: sdk_connection.Connection) -> None:
    access = connection.session.auth.get_access(connection.session)
    catalog = Catalog(session.UserConnections(plain_conf()).connect(_user_plugin.UserAuthPlugin(access, None)))
    local.fault("http", service="image", method="GET", path="^/?$|^/v2/?$", status=503, count=None)
    with pytest.raises(exception.CloudError, match="did not say which versions it has"):
        catalog.get_image(target.image)
    local.heal()
    assert catalog.get_image(target.image).name == target.image


def test_an_image_by_what_it_is_labelled_with(catalog: Catalog, image: Image) -> None:
    assert image.framework
    assert image in catalog.images()
    assert catalog.find_image(image.framework, image.framework_version).framework_version == image.framework_version
    assert catalog.find_image(image.framework).framework == image.framework
    assert catalog.get_image(image.id) == image
    with pytest.raises(exception.NotFound, match="cml_framework"):
        catalog.find_image(f"none-{uuid.uuid4()}")


def test_flavors_have_their_sizes(catalog: Catalog, target: Target) -> None:
    flavor = catalog.get_flavor(target.flavor)
    assert flavor.vcpus > 0 and flavor.ram > 0
    assert catalog.get_flavor(flavor.id) == flavor
    with pytest.raises(exception.NotFound, match="flavor 'no such flavor'"):
        catalog.get_flavor("no such flavor")


@pytest.mark.local_cloud
def test_accelerators_of_flavors(local: LocalCloud, catalog: Catalog) -> None:
    found = {flavor.name: (flavor.accelerator_kind, flavor.accelerator_count) for flavor in catalog.flavors()}
    assert found == {"cpu.small": (None, 0), "gpu.small": ("GPU", 1), "gpu.large": ("GPU", 4)}


def test_a_network_by_name_and_id(catalog: Catalog, fleet: Fleet, target: Target) -> None:
    network_id = catalog.get_network(target.network)
    assert fleet.network_id() == catalog.get_network(network_id) == network_id
    with pytest.raises(exception.NotFound, match=target.network):
        catalog.get_network(target.network[:-1])


@pytest.mark.parametrize(("service", "path", "says"), [
    ("compute", "/servers/{id}", "Instance {id} could not be found."),
    ("image", "/images/{id}", "{id}"),
    ("network", "/networks/{id}", "Network {id} could not be found."),
    ("network", "/ports/{id}", "Port {id} could not be found."),
    ("network", "/security-groups/{id}", "Security group {id} does not exist"),
    ("identity", "/projects/{id}", ""),
])
def test_error_bodies_speak_to_openstacksdk(connection: sdk_connection.Connection, service: str, path: str, says: str) -> None:
    wrong = str(uuid.uuid4())
    response = getattr(connection, service).get(path.format(id=wrong))
    assert response.status_code in (403, 404)
    with pytest.raises(sdk.HttpException) as caught:
        sdk.raise_from_response(response)
    assert says.format(id=wrong) in str(caught.value.details)
    assert caught.value.request_id
