"""Images, flavors and networks by name, as the user who asks sees them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cml_nova import exception
from cml_nova.compute import rest
from cml_nova.hints import nearest


@dataclass(frozen=True)
class Flavor:
    """A Nova flavor. ``ram`` is in MiB, ``disk`` in GiB. The accelerator is what its extra specs promise; None and 0 without one."""

    id: str
    name: str
    vcpus: int
    ram: int
    disk: int
    accelerator_kind: str | None
    accelerator_count: int


@dataclass(frozen=True)
class Image:
    """A Glance image. ``min_ram`` is in MiB, ``min_disk`` in GiB; the framework is None where nobody labelled the image."""

    id: str
    name: str
    framework: str | None
    framework_version: str | None
    ssh_user: str | None
    ssh_port: int | None
    min_ram: int
    min_disk: int
    status: str

    def fits(self, flavor: Flavor) -> bool:
        """Tell whether a server of a flavor is large enough for it."""
        return flavor.ram >= self.min_ram and flavor.disk >= self.min_disk


class Catalog:
    """What one user may use. Each method is one request (per page), and a few more only to word an error."""

    def __init__(self, connection: rest.Connection) -> None:
        self._connection = connection

    def images(self) -> list[Image]:
        """List the active images that are labelled with a framework (property ``cml_framework``)."""
        return [image for image in self._images("list the images", {}) if image.framework]

    def get_image(self, name_or_id: str) -> Image:
        """Find an active image.

        :raises NotFound: there is none; the message names the nearest.
        :raises Conflict: several images have this name.
        """
        what = f"find the image {name_or_id!r}"
        if _is_uuid(name_or_id):
            try:
                image = _image(rest.get(self._connection, "image", f"/images/{name_or_id}", what))
            except exception.NotFound:
                pass
            else:
                if image.status != "active":
                    raise exception.NotFound(f"The image {name_or_id} is {image.status}, not active.")
                return image
        found = self._images(what, {"name": name_or_id})
        return _only(found, "image", name_or_id, lambda: (image.name for image in self.images()))

    def find_image(self, framework: str, version: str | None = None) -> Image:
        """Find the image for a framework.

        :param version: exactly this one; None for the newest.
        :raises NotFound: there is none; the message names the versions that there are.
        """
        found = self._images(f"find an image for {framework}", {"cml_framework": framework})
        fitting = [image for image in found if version in (None, image.framework_version)]
        if fitting:
            return max(fitting, key=lambda image: (_version_key(image.framework_version), image.name, image.id))
        if not found:
            raise exception.NotFound(f"There is no image for the framework {framework!r}: none has the property cml_framework={framework}; "
                                     "give an image.")
        versions = sorted({image.framework_version or "?" for image in found}, key=_version_key)
        raise exception.NotFound(f"There is no image for {framework} {version}; {nearest(version or '', 'versions', versions)}.")

    def flavors(self) -> list[Flavor]:
        """List the flavors."""
        return [_flavor(body) for body in rest.pages(self._connection, "compute", "/flavors/detail", "flavors", "list the flavors")]

    def get_flavor(self, name_or_id: str) -> Flavor:
        """Find a flavor; an id goes before a name.

        :raises NotFound: there is none; the message names the nearest.
        """
        flavors = self.flavors()
        for flavor in flavors:
            if flavor.id == name_or_id:
                return flavor
        named = [flavor for flavor in flavors if flavor.name == name_or_id]
        return _only(named, "flavor", name_or_id, lambda: (flavor.name for flavor in flavors))

    def get_network(self, name_or_id: str) -> str:
        """Find a network and give its id.

        :raises NotFound: there is none; the message names the nearest.
        :raises Conflict: several networks have this name.
        """
        return find_network(self._connection, name_or_id)

    def has_project(self, project_id: str) -> bool | None:
        """Tell whether there is a project with this id; None where the user may not know."""
        try:
            rest.get(self._connection, "identity", f"/projects/{project_id}", f"look up the project {project_id!r}")
        except exception.NotFound:
            return False
        except exception.CloudRefused:
            return None
        return True

    def _images(self, what: str, params: rest.Params) -> list[Image]:
        bodies = rest.pages(self._connection, "image", "/images", "images", what, {**params, "status": "active"})
        return [_image(body) for body in bodies]


def find_network(connection: rest.Connection, name_or_id: str) -> str:
    """Give the id of a network: one request; see ``Catalog.get_network``."""
    what = f"find the network {name_or_id!r}"
    found = []
    if _is_uuid(name_or_id):
        found = list(rest.pages(connection, "network", "/networks", "networks", what, {"id": name_or_id, "fields": ["id", "name"]}))
    if not found:
        found = list(rest.pages(connection, "network", "/networks", "networks", what, {"name": name_or_id, "fields": ["id", "name"]}))

    def names() -> Iterable[str]:
        return (body["name"] for body in rest.pages(connection, "network", "/networks", "networks", what, {"fields": ["id", "name"]}))

    network: dict[str, Any] = _only(found, "network", name_or_id, names)
    return str(network["id"])


def _only(found: list[Any], kind: str, name: str, names: Any) -> Any:
    """Give the one element of ``found``; ``names()`` lists what else there is, for the message."""
    if len(found) == 1:
        return found[0]
    if found:
        raise exception.Conflict(f"There are {len(found)} {kind}s named {name!r}; give the id of one.")
    raise exception.NotFound(f"There is no {kind} {name!r} that you may use; {nearest(name, f'{kind}s', sorted(set(names())))}.")


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _version_key(version: str | None) -> tuple[tuple[int, int, str], ...]:
    """Order versions by their numbers: 2.9 < 2.10; a word sorts before a number (2.21.0rc1 < 2.21.0 needs a word before nothing)."""
    parts = re.findall(r"\d+|[a-z]+", (version or "").lower())
    keys = [(2, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
    return (*keys, (1, 0, ""))


def _image(body: Mapping[str, Any]) -> Image:
    port = str(body.get("cml_ssh_port") or "")
    return Image(
        id=str(body["id"]), name=str(body.get("name") or body["id"]), framework=body.get("cml_framework"),
        framework_version=body.get("cml_framework_version"), ssh_user=body.get("cml_ssh_user") or None,
        ssh_port=int(port) if port.isdigit() and 0 < int(port) < 65536 else None,
        min_ram=_number(body.get("min_ram")), min_disk=_number(body.get("min_disk")), status=str(body.get("status", "")).lower())


def _flavor(body: Mapping[str, Any]) -> Flavor:
    kind, count = accelerator(body.get("extra_specs") or {})
    return Flavor(id=str(body["id"]), name=str(body.get("name") or body["id"]), vcpus=_number(body.get("vcpus")),
                  ram=_number(body.get("ram")), disk=_number(body.get("disk")), accelerator_kind=kind, accelerator_count=count)


def _number(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


# "resources:VGPU", and in numbered groups "resources1:CUSTOM_GPU_A100" or "resources_GPU0:PGPU"
_RESOURCE = re.compile(r"resources[A-Za-z0-9_-]*:(?:CUSTOM_)?([A-Z0-9_]*GPU[A-Z0-9_]*)$")
_TRAIT = re.compile(r"trait[A-Za-z0-9_-]*:CUSTOM_([A-Z0-9_]+)$")
_GENERIC = ("GPU", "VGPU", "PGPU")


def accelerator(extra_specs: Mapping[str, Any]) -> tuple[str | None, int]:
    """Tell what accelerators a flavor promises: (kind, count), or (None, 0).

    Read, in this order: Placement resources (``resources:VGPU``, ``resources:CUSTOM_GPU_A100``; summed), PCI aliases
    (``pci_passthrough:alias`` = "a100:2"), Cyborg (``accel:device_profile``, which counts as one). A required custom trait
    names the kind where the resource's own name says only "GPU".
    """
    counts: dict[str, int] = {}
    for key, value in extra_specs.items():
        match = _RESOURCE.match(key)
        if match and _number(value) > 0:
            counts[match.group(1)] = counts.get(match.group(1), 0) + _number(value)
    if counts:
        kind = max(counts, key=lambda name: (counts[name], name))
        return (_trait(extra_specs) or kind) if kind in _GENERIC else kind, sum(counts.values())
    for part in str(extra_specs.get("pci_passthrough:alias") or "").split(","):
        name, _, count = part.strip().partition(":")
        if name:
            return name, _number(count or 1)
    profile = extra_specs.get("accel:device_profile")
    return (str(profile), 1) if profile else (None, 0)


def _trait(extra_specs: Mapping[str, Any]) -> str | None:
    """Give the required custom trait that most likely names the accelerator: one that speaks of a GPU goes before others."""
    for key in sorted(extra_specs, key=lambda name: ("GPU" not in name, name)):
        match = _TRAIT.match(key)
        if match and extra_specs[key] == "required":
            return match.group(1)
    return None
