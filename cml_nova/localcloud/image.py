"""Glance v2 on the wire: the images that are built, read-only."""

from __future__ import annotations

import hashlib
import uuid

from flask import Blueprint, Response, jsonify, request

from cml_nova.localcloud import errors
from cml_nova.localcloud.store import Document
from cml_nova.localcloud.times import iso
from cml_nova.localcloud.web import authenticate, cloud, may_read, page

blueprint = Blueprint("image", __name__)
_NAMES = uuid.UUID("5b4f4dbb-8f0f-4b39-9a53-3c9a0cf0a0c6")  # an image has the same id in every local cloud
# Parameters that every image here answers alike, or that are about the list itself.
_IGNORED = {"limit", "marker", "sort_key", "sort_dir", "sort", "member_status", "protected", "created_at", "updated_at"}


def render(error: errors.ApiError) -> Response:
    """Give Glance's form of an error: a small page, as webob makes it."""
    response = Response(f"<html>\n <head>\n  <title>{error.status} {error.kind}</title>\n </head>\n <body>\n"
                        f"  <h1>{error.status} {error.kind}</h1>\n  {error.message}<br /><br />\n\n\n </body>\n</html>",
                        status=error.status, mimetype="text/html")
    if error.status == 401:
        response.headers["WWW-Authenticate"] = f'Keystone uri="{cloud().options.url}/identity"'
    return response


@blueprint.before_request
def _check() -> None:
    if request.endpoint == "image.versions":
        return
    authenticate()
    if not may_read():
        raise errors.forbidden("You are not authorized to complete get_images action.", "Forbidden")


@blueprint.get("/")
@blueprint.get("/versions")
def versions() -> tuple[Response, int]:
    """Version discovery."""
    link = {"rel": "self", "href": f"{cloud().options.url}/image/v2/"}
    found = [{"id": f"v2.{minor}", "status": "CURRENT" if minor == 9 else "SUPPORTED", "links": [link]}
             for minor in (9, 7, 6, 5, 4, 3, 2, 1, 0)]
    return jsonify({"versions": found}), 300 if request.path.rstrip("/").endswith("/image") else 200


def show_images() -> list[Document]:
    """Give all images as Glance shows them, newest first."""
    admin = cloud().store.find("project", name="admin")
    owner = admin[0]["id"] if admin else None
    shown: list[Document] = []
    images = [info for info in cloud().images.list() if info.name not in cloud().settings.lost_images]
    for info in sorted(images, key=lambda info: (info.created_at, info.name), reverse=True):
        image_id = str(uuid.uuid5(_NAMES, info.name))
        made = iso(info.created_at)
        shown.append({
            "id": image_id, "name": info.name, "status": "active", "visibility": "public", "protected": False, "os_hidden": False,
            "owner": owner, "container_format": "bare", "disk_format": "raw", "size": info.size, "virtual_size": None, "min_ram": 0,
            "min_disk": 0, "checksum": hashlib.md5(image_id.encode(), usedforsecurity=False).hexdigest(), "os_hash_algo": "sha512",
            "os_hash_value": hashlib.sha512(image_id.encode()).hexdigest(), "tags": [], "created_at": made, "updated_at": made,
            "self": f"/v2/images/{image_id}", "file": f"/v2/images/{image_id}/file", "schema": "/v2/schemas/image", **info.properties})
    return shown


@blueprint.get("/v2/images")
def index() -> Response:
    """The images that match the parameters; one that is not known is a custom property."""
    images = show_images()
    for name in set(request.args) - _IGNORED:
        images = [image for image in images if _matches(image, name, request.args[name])]
    images, rest = page(images)
    body: Document = {"images": images, "first": "/v2/images", "schema": "/v2/schemas/images"}
    if rest:
        body["next"] = f"/v2/images?{rest}"
    return jsonify(body)


def _matches(image: Document, name: str, value: str) -> bool:
    operator, _, operand = value.partition(":")
    if name == "os_hidden":
        return value.lower() not in ("true", "1")
    if name == "visibility":
        return value in ("public", "all")
    if name == "tag":
        return False
    if name in ("size_min", "size_max"):
        return image["size"] >= int(value) if name == "size_min" else image["size"] <= int(value)
    if operator == "in" and operand:
        return image.get(name) in [item.strip('"') for item in operand.split(",")]
    return str(image.get(name)) == value


@blueprint.get("/v2/images/<image_id>")
def show(image_id: str) -> Response:
    """One image."""
    for image in show_images():
        if image["id"] == image_id:
            return jsonify(image)
    raise errors.not_found(f"No image found with ID {image_id}", "Not Found")


@blueprint.get("/v2/schemas/<name>")
def schema(name: str) -> Response:
    """The form of an image, or of a list of them."""
    properties = {key: {"type": ["null", "string"]} for key in ("id", "name", "status", "owner", "visibility")}
    one = {"name": "image", "properties": properties, "additionalProperties": {"type": "string"}}
    if name == "image":
        return jsonify(one)
    if name == "images":
        return jsonify({"name": "images", "properties": {"images": {"type": "array", "items": one}}})
    raise errors.not_found("The resource could not be found.", "Not Found")
