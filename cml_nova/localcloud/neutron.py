"""What the parts of the network API share: errors, filters, policy, tags."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request

from cml_nova.localcloud import errors
from cml_nova.localcloud.store import Document
from cml_nova.localcloud.times import iso
from cml_nova.localcloud.web import authenticate, by_tags, caller, cloud, may_read, may_write, page

_LIST_PARAMETERS = {"fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir", "tags", "tags-any", "not-tags", "not-tags-any"}
_KINDS = {"floatingip": "FloatingIP"}  # in names of errors, where it is not the kind in capitals
SHARED = ("network", "subnet")  # everyone sees these; only an admin changes them


def render(error: errors.ApiError) -> Response:
    """Give Neutron's form of an error."""
    if error.status == 401:
        response = jsonify({"error": {"code": 401, "title": "Unauthorized", "message": error.message}})
        response.headers["WWW-Authenticate"] = f'Keystone uri="{cloud().options.url}/identity"'
    else:
        response = jsonify({"NeutronError": {"type": error.kind, "message": error.message, "detail": ""}})
    response.status_code = error.status
    return response


def check_request() -> None:
    """Refuse a request without a valid token for a project.

    :raises ApiError: 401.
    """
    authenticate()
    caller().project_id  # noqa: B018 -- a token without a project is refused


def policy(action: str, *, write: bool = False, admin: bool = False) -> None:
    """Refuse what the caller's roles do not allow.

    :raises ApiError: 403 in Neutron's wording.
    """
    allowed = caller().is_admin if admin else may_write() if write else may_read()
    if not allowed:
        raise errors.forbidden(f"rule:{action} is disallowed by policy")


def visible(kind: str) -> list[Document]:
    """Give the resources of a kind that the caller may see."""
    found = cloud().store.all(kind)
    if kind in SHARED or caller().is_admin:
        return found
    return [item for item in found if item["project_id"] == caller().project_id]


def find(kind: str, key: str) -> Document:
    """Give one resource that the caller may see.

    :raises ApiError: 404 in Neutron's wording.
    """
    found = cloud().store.get(kind, key)
    if found is None or not (kind in SHARED or caller().is_admin or found["project_id"] == caller().project_id):
        text = {"network": f"Network {key} could not be found.", "subnet": f"Subnet {key} could not be found.",
                "port": f"Port {key} could not be found.", "floatingip": f"Floating IP {key} could not be found",
                "security_group": f"Security group {key} does not exist",
                "security_group_rule": f"Security group rule {key} does not exist"}[kind]
        raise errors.not_found(text, _KINDS.get(kind, "".join(part.title() for part in kind.split("_"))) + "NotFound")
    return found


def owner(body: Document) -> str:
    """Give the project that a new resource is for: the caller's, or the one an admin names.

    :raises ApiError: 403.
    """
    project = body.get("project_id") or body.get("tenant_id") or caller().project_id
    if project != caller().project_id and not caller().is_admin:
        raise errors.forbidden("Specifying 'project_id' or 'tenant_id' other than the authenticated project in request requires admin "
                               "privileges")
    return str(project)


def only(body: Document, *names: str) -> Document:
    """Give the body back if it has these attributes only.

    :raises ApiError: 400 in Neutron's wording.
    """
    unknown = sorted(set(body) - set(names))
    if unknown:
        raise errors.bad_request(f"Unrecognized attribute(s) '{', '.join(unknown)}'", "HTTPBadRequest")
    return body


def listing(collection: str, items: list[Document]) -> Response:
    """Answer with the items that the request's filters let through, one page of them.

    :raises ApiError: 400, no item can have such an attribute.
    """
    known = {*_LIST_PARAMETERS, "project_id", "tenant_id", "ip_address", *(key for item in items for key in item)}
    unknown = sorted(name for name in set(request.args) - known if items)
    if unknown:
        raise errors.bad_request(f"{unknown} is invalid attribute for filtering", "HTTPBadRequest")
    for name in set(request.args) - _LIST_PARAMETERS:
        items = [item for item in items if any(_has(item, name, value) for value in request.args.getlist(name))]
    limit = request.args.get("limit", "0")
    if not limit.isdecimal():
        raise errors.bad_request(f"Bad limit request: Limit must be an integer 0 or greater and not '{limit}'.")
    chosen, rest = page(by_tags(items) if not items or "tags" in items[0] else items, maximum=10000)
    fields = {field for text in request.args.getlist("fields") for field in text.split(",")}
    if fields:
        chosen = [{key: value for key, value in item.items() if key in fields} for item in chosen]
    body: Document = {collection: chosen}
    if rest:
        body[f"{collection}_links"] = [{"rel": "next", "href": f"{request.base_url}?{rest}"}]
    return jsonify(body)


def _has(item: Document, name: str, value: str) -> bool:
    here: Any = item.get(name)
    if name == "fixed_ips":
        wanted, _, text = value.partition("=")
        return any(fixed.get(wanted) == text for fixed in item["fixed_ips"])
    if name == "ip_address":
        return any(fixed["ip_address"] == value for fixed in item["fixed_ips"])
    if isinstance(here, bool):
        return here == (value.lower() in ("true", "1"))
    if isinstance(here, list):
        return value in here
    return str("" if here is None else here) == value


def change(kind: str, item: Document, **changes: Any) -> Document:
    """Put a changed resource, with a new time and revision."""
    return cloud().store.update(kind, item["id"], updated_at=iso(cloud().clock()), revision_number=item["revision_number"] + 1, **changes)
