"""Nova's flavors on the wire."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from cml_nova.localcloud import errors
from cml_nova.localcloud.nova import check_request, links, policy
from cml_nova.localcloud.store import Document
from cml_nova.localcloud.web import body_object, caller, cloud, page

blueprint = Blueprint("flavors", __name__)
blueprint.before_request(check_request)


def _find(flavor_id: str) -> Document:
    flavor = cloud().store.get("flavor", flavor_id)
    if flavor is None or not _visible(flavor):
        raise errors.not_found(f"Flavor {flavor_id} could not be found.")
    return flavor


def _visible(flavor: Document) -> bool:
    return bool(flavor["is_public"] or caller().is_admin)


def _brief(flavor: Document) -> Document:
    return {"id": flavor["id"], "name": flavor["name"], "description": flavor["description"], "links": links(f"flavors/{flavor['id']}")}


def _show(flavor: Document) -> Document:
    return {**_brief(flavor), "vcpus": flavor["vcpus"], "ram": flavor["ram"], "disk": flavor["disk"], "swap": flavor["swap"],
            "OS-FLV-EXT-DATA:ephemeral": flavor["ephemeral"], "OS-FLV-DISABLED:disabled": False, "rxtx_factor": flavor["rxtx_factor"],
            "os-flavor-access:is_public": flavor["is_public"], "extra_specs": flavor["extra_specs"]}


def _listing(detail: bool) -> Response:
    policy("flavors:index")
    path = "flavors/detail" if detail else "flavors"
    flavors = [flavor for flavor in cloud().store.all("flavor") if _visible(flavor)]
    try:
        ram, disk = int(request.args.get("minRam", 0)), int(request.args.get("minDisk", 0))
    except ValueError:
        raise errors.bad_request("Invalid minRam or minDisk filter: it is not a number") from None
    flavors, rest = page([flavor for flavor in flavors if flavor["ram"] >= ram and flavor["disk"] >= disk])
    body: Document = {"flavors": [_show(flavor) if detail else _brief(flavor) for flavor in flavors]}
    if rest:
        body["flavors_links"] = [{"rel": "next", "href": f"{cloud().options.url}/compute/v2.1/{path}?{rest}"}]
    return jsonify(body)


@blueprint.get("/v2.1/flavors")
def index() -> Response:
    """Names and ids."""
    return _listing(detail=False)


@blueprint.get("/v2.1/flavors/detail")
def detail() -> Response:
    """All of the flavors."""
    return _listing(detail=True)


@blueprint.post("/v2.1/flavors")
def create() -> Response:
    """Make a flavor."""
    policy("os-flavor-manage:create", admin=True)
    body = body_object("flavor")
    try:
        name, vcpus, ram, disk = str(body["name"]), int(body["vcpus"]), int(body["ram"]), int(body["disk"])
    except (KeyError, TypeError, ValueError) as error:
        raise errors.bad_request(f"Invalid input for field/attribute flavor. Value: {body}. {error} is missing or no number") from None
    with cloud().store as store:
        if store.find("flavor", name=name):
            raise errors.conflict(f"Flavor with name {name} already exists.")
        more = {"id": str(body["id"])} if body.get("id") not in (None, "auto") else {}
        flavor = cloud().add_flavor(name, vcpus, ram, disk, {}, is_public=body.get("os-flavor-access:is_public", True),
                                    description=body.get("description"), **more)
    return jsonify({"flavor": _show(flavor)})


@blueprint.get("/v2.1/flavors/<flavor_id>")
def show(flavor_id: str) -> Response:
    """One flavor."""
    policy("flavors:show")
    return jsonify({"flavor": _show(_find(flavor_id))})


@blueprint.delete("/v2.1/flavors/<flavor_id>")
def delete(flavor_id: str) -> tuple[str, int]:
    """Remove a flavor."""
    policy("os-flavor-manage:delete", admin=True)
    with cloud().store as store:
        store.remove("flavor", _find(flavor_id)["id"])
    return "", 202


@blueprint.route("/v2.1/flavors/<flavor_id>/os-extra_specs", methods=["GET", "POST"])
def extra_specs(flavor_id: str) -> Response:
    """The extra specs: read, add to."""
    policy("os-flavor-extra-specs:index", admin=request.method == "POST")
    with cloud().store as store:
        flavor = _find(flavor_id)
        if request.method == "POST":
            given = {str(key): str(value) for key, value in body_object("extra_specs").items()}
            flavor = store.update("flavor", flavor_id, extra_specs={**flavor["extra_specs"], **given})
    return jsonify({"extra_specs": flavor["extra_specs"]})
