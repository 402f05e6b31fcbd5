"""Keystone v3 on the wire."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, jsonify, request

from cml_nova.localcloud import errors
from cml_nova.localcloud.accounts import DOMAIN, REGION, Token
from cml_nova.localcloud.store import Document
from cml_nova.localcloud.times import iso_fraction
from cml_nova.localcloud.web import authenticate, body_object, caller, cloud, missing_key

blueprint = Blueprint("identity", __name__)

# type: name, path; ids of services and endpoints are the type, so that they stay the same for ever
SERVICES = {
    "identity": ("keystone", "/identity"),
    "compute": ("nova", "/compute/v2.1"),
    "image": ("glance", "/image"),
    "network": ("neutron", "/network"),
}

#: keystonemiddleware looks for the internal endpoint, clients for the public one
INTERFACES = ("public", "internal", "admin")


def render(error: errors.ApiError) -> Response:
    """Give Keystone's form of an error."""
    response = jsonify({"error": {"code": error.status, "title": HTTPStatus(error.status).phrase, "message": error.message}})
    response.status_code = error.status
    if error.status == 401:
        response.headers["WWW-Authenticate"] = f'Keystone uri="{cloud().options.url}/identity"'
    return response


@blueprint.before_request
def _authenticate() -> None:
    opened = {"identity.versions", "identity.version", "identity.issue"}
    if request.endpoint not in opened:
        authenticate()


def _version() -> Document:
    return {"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
            "links": [{"rel": "self", "href": f"{cloud().options.url}/identity/v3/"}],
            "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}]}


@blueprint.get("/")
def versions() -> tuple[Response, int]:
    """Version discovery."""
    return jsonify({"versions": {"values": [_version()]}}), 300


@blueprint.get("/v3/")
def version() -> Response:
    """The one version."""
    return jsonify({"version": _version()})


# Tokens

@blueprint.post("/v3/auth/tokens")
def issue() -> tuple[Response, int]:
    """Issue a token for a password or another token."""
    body = body_object("auth", "identity")
    methods = body.get("methods")
    expires_at = None
    if methods == ["password"]:
        user = cloud().accounts.check_password(body_object("auth", "identity", "password", "user"))
    elif methods == ["token"]:
        old = cloud().accounts.validate(str(body_object("auth", "identity", "token").get("id")))
        if old is None:
            raise errors.unauthorized()
        user, expires_at, methods = old.user, old.expires_at, sorted({*old.methods, "token"})
    else:
        raise missing_key(", ".join(map(str, methods or ["methods"])), "identity")
    text, token = cloud().accounts.issue(user, _scope(user), methods, expires_at)
    response = jsonify(_show_token(token))
    response.headers.update({"X-Subject-Token": text, "Vary": "X-Auth-Token"})
    return response, 201


def _scope(user: Document) -> Document | None:
    scope = body_object("auth").get("scope")
    if scope == "unscoped" or (isinstance(scope, dict) and "unscoped" in scope):
        return None
    if scope is None:
        return cloud().store.get("project", user["default_project_id"]) if user["default_project_id"] else None
    if not isinstance(scope, dict) or not isinstance(scope.get("project"), dict):
        raise errors.unauthorized("This cloud has tokens for projects only: no domain, system or trust scope.")
    return cloud().accounts.find_project(scope["project"])


def _show_token(token: Token) -> Document:
    shown: dict[str, Any] = {
        "methods": list(token.methods), "audit_ids": [token.audit_id],
        "user": {"id": token.user["id"], "name": token.user["name"], "domain": DOMAIN, "password_expires_at": None},
        "issued_at": iso_fraction(token.issued_at, "Z"), "expires_at": iso_fraction(token.expires_at, "Z")}
    if token.project is not None:
        ids = cloud().accounts.role_ids()
        shown |= {"project": {"id": token.project["id"], "name": token.project["name"], "domain": DOMAIN}, "is_domain": False,
                  "roles": [{"id": ids[name], "name": name} for name in token.roles], "catalog": _catalog()}
    return {"token": shown}


def _endpoints() -> dict[str, tuple[str, str]]:
    url = cloud().options.url
    found = {kind: (name, url + path) for kind, (name, path) in SERVICES.items()}
    if cloud().options.ml_endpoint:
        found["machine-learning"] = ("cml_nova", str(cloud().options.ml_endpoint))
    return found


def _catalog() -> list[Document]:
    return [{"id": kind, "type": kind, "name": name,
             "endpoints": [{"id": f"{kind}-{interface}", "interface": interface, "region": REGION, "region_id": REGION, "url": url}
                           for interface in INTERFACES]}
            for kind, (name, url) in _endpoints().items()]


def _subject() -> str:
    return request.headers.get("X-Subject-Token", "")


@blueprint.get("/v3/auth/tokens")
def validate() -> Response:
    """Say what a token stands for; HEAD says only whether it is valid."""
    token = cloud().accounts.validate(_subject())
    own = _subject() == request.headers.get("X-Auth-Token")
    if not own and not caller().is_admin and "service" not in caller().roles:
        raise errors.forbidden("You are not authorized to perform the requested action: identity:validate_token.")
    if token is None:
        raise errors.not_found("Could not find token: it is unknown, revoked or expired.")
    response = jsonify(_show_token(token))
    response.headers["X-Subject-Token"] = _subject()
    return response


@blueprint.delete("/v3/auth/tokens")
def revoke() -> tuple[str, int]:
    """Make a token invalid."""
    if cloud().accounts.validate(_subject()) is None:
        raise errors.not_found("Could not find token: it is unknown, revoked or expired.")
    if _subject() != request.headers.get("X-Auth-Token"):
        admin("identity:revoke_token")
    cloud().accounts.revoke(_subject())
    return "", 204


# Users, projects, roles, services

def admin(rule: str) -> None:
    if not caller().is_admin:
        raise errors.forbidden(f"You are not authorized to perform the requested action: {rule}.")


def links(path: str) -> Document:
    return {"self": f"{cloud().options.url}/identity/v3/{path}"}


def listing(name: str, items: list[Document]) -> Response:
    return jsonify({name: items, "links": {**links(name), "previous": None, "next": None}})


def _show_project(project: Document) -> Document:
    return {**project, "parent_id": DOMAIN["id"], "is_domain": False, "tags": [], "options": {},
            "links": links(f"projects/{project['id']}")}


def _show_user(user: Document) -> Document:
    shown = {key: value for key, value in user.items() if key != "password"}
    return {**shown, "password_expires_at": None, "options": {}, "links": links(f"users/{user['id']}")}


def _show_role(role: Document) -> Document:
    return {**role, "domain_id": None, "description": None, "options": {}, "links": links(f"roles/{role['id']}")}


def _found(kind: str, key: str) -> Document:
    document = cloud().store.get(kind, key)
    if document is None:
        raise errors.not_found(f"Could not find {kind}: {key}.")
    return document


def _filtered(kind: str) -> list[Document]:
    names = {name: request.args[name] for name in ("name", "domain_id") if name in request.args}
    return cloud().store.find(kind, **names)


@blueprint.get("/v3/auth/projects")
def own_projects() -> Response:
    """The projects that the caller can have a token for."""
    return listing("projects", [_show_project(project) for project in cloud().accounts.projects_of(caller().user["id"])])


@blueprint.get("/v3/auth/catalog")
def own_catalog() -> Response:
    """The catalog alone."""
    return jsonify({"catalog": _catalog(), "links": links("auth/catalog")})


@blueprint.get("/v3/projects")
def projects() -> Response:
    """All projects."""
    admin("identity:list_projects")
    return listing("projects", [_show_project(project) for project in _filtered("project")])


@blueprint.post("/v3/projects")
def add_project() -> tuple[Response, int]:
    """Make a project."""
    admin("identity:create_project")
    body = body_object("project")
    with cloud().store as store:
        if store.find("project", name=body.get("name")):
            raise errors.conflict("Conflict occurred attempting to store project - it is not permitted to have two projects "
                                  f"with the same name in the same domain: {body.get('name')}.")
        project = cloud().accounts.add_project(str(body["name"]), body.get("description") or "")
    return jsonify({"project": _show_project(project)}), 201


@blueprint.get("/v3/projects/<key>")
def project(key: str) -> Response:
    """One project: the caller's own, or any for an admin."""
    if key not in {item["id"] for item in cloud().accounts.projects_of(caller().user["id"])}:
        admin("identity:get_project")
    return jsonify({"project": _show_project(_found("project", key))})


@blueprint.get("/v3/users")
def users() -> Response:
    """All users."""
    admin("identity:list_users")
    return listing("users", [_show_user(user) for user in _filtered("user")])


@blueprint.get("/v3/users/<key>")
def user(key: str) -> Response:
    """One user: the caller itself, or any for an admin."""
    if key != caller().user["id"]:
        admin("identity:get_user")
    return jsonify({"user": _show_user(_found("user", key))})


@blueprint.get("/v3/users/<key>/projects")
def user_projects(key: str) -> Response:
    """The projects on which a user has a role."""
    if key != caller().user["id"]:
        admin("identity:list_user_projects")
    return listing("projects", [_show_project(project) for project in cloud().accounts.projects_of(key)])


@blueprint.get("/v3/roles")
def roles() -> Response:
    """All roles."""
    admin("identity:list_roles")
    return listing("roles", [_show_role(role) for role in _filtered("role")])


@blueprint.get("/v3/roles/<key>")
def role(key: str) -> Response:
    """One role."""
    admin("identity:get_role")
    return jsonify({"role": _show_role(_found("role", key))})


@blueprint.get("/v3/domains")
def domains() -> Response:
    """The one domain."""
    admin("identity:list_domains")
    matches = request.args.get("name") in (None, DOMAIN["name"])
    return listing("domains", [{**DOMAIN, "enabled": True, "description": "The default domain"}] if matches else [])


@blueprint.get("/v3/domains/<key>")
def domain(key: str) -> Response:
    """The one domain."""
    if key != DOMAIN["id"]:
        raise errors.not_found(f"Could not find domain: {key}.")
    return jsonify({"domain": {**DOMAIN, "enabled": True, "description": "The default domain", "links": links("domains/default")}})


@blueprint.get("/v3/services")
def services() -> Response:
    """The services of the catalog."""
    admin("identity:list_services")
    return listing("services", [
        {"id": kind, "type": kind, "name": name, "enabled": True, "links": links(f"services/{kind}")}
        for kind, (name, _) in _endpoints().items()
        if request.args.get("type") in (None, kind) and request.args.get("name") in (None, name)])


@blueprint.get("/v3/services/<key>")
def service(key: str) -> Response:
    """One service of the catalog."""
    admin("identity:get_service")
    if key not in _endpoints():
        raise errors.not_found(f"Could not find service: {key}.")
    return jsonify({"service": {"id": key, "type": key, "name": _endpoints()[key][0], "enabled": True}})


def _shown_endpoints() -> list[Document]:
    return [{"id": f"{kind}-{interface}", "service_id": kind, "interface": interface, "region": REGION, "region_id": REGION, "url": url,
             "enabled": True, "links": links(f"endpoints/{kind}-{interface}")}
            for kind, (_, url) in _endpoints().items() for interface in INTERFACES]


@blueprint.get("/v3/endpoints")
def endpoints() -> Response:
    """The endpoints of the catalog."""
    admin("identity:list_endpoints")
    wanted = {name: request.args[name] for name in ("service_id", "interface") if name in request.args}
    return listing("endpoints", [shown for shown in _shown_endpoints() if all(shown[name] == value for name, value in wanted.items())])


@blueprint.get("/v3/endpoints/<key>")
def endpoint(key: str) -> Response:
    """One endpoint of the catalog."""
    admin("identity:get_endpoint")
    for shown in _shown_endpoints():
        if shown["id"] == key:
            return jsonify({"endpoint": shown})
    raise errors.not_found(f"Could not find endpoint: {key}.")


@blueprint.get("/v3/regions")
def regions() -> Response:
    """The one region."""
    return listing("regions", [{"id": REGION, "description": "", "parent_region_id": None, "links": links(f"regions/{REGION}")}])
