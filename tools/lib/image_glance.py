"""Puts a guest image into Glance, once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "cml_image"  # tells our own images apart from others of the same name
PART = 1 << 20
Say = Callable[[str], None]


class UploadError(Exception):
    """The image can't be put into Glance; the message says why and what to do."""


def checksum(path: Path, algorithm: str = "sha512") -> str:
    """Hash a file as Glance does (``os_hash_value``)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def upload(connection: Any, built: dict[str, Any], directory: Path, *, name: str, visibility: str, boot: str, say: Say) -> str:
    """Put a built image into Glance unless its content is there under this name; give its id.

    The new image is there before the old one of the same name is put aside: hidden and renamed, since servers may be made of it.

    :param connection: of openstacksdk.
    :param built: what ``build_image`` knows of the image.
    :param boot: ``disk`` for the disk's own boot loader, ``kernel`` for Nova to load kernel and RAM disk itself.
    :raises UploadError: Glance refused.
    """
    properties = dict(built["properties"], **{MARK: name})
    limits = {"min_disk": built["min_disk"], "min_ram": built["min_ram"]}
    if boot == "kernel":
        for key, file, kind in (("kernel_id", "vmlinuz", "aki"), ("ramdisk_id", "initrd.img", "ari")):
            own = f"{name}-{file.partition('.')[0]}"
            properties[key] = _put(connection, directory / file, own, kind, kind, visibility, {MARK: own}, {}, say)
        properties["os_command_line"] = built["kernel_options"]
    return _put(connection, directory / "disk.qcow2", name, "qcow2", "bare", visibility, properties, limits, say)


def _put(connection: Any, path: Path, name: str, disk_format: str, container: str, visibility: str, properties: dict[str, str],
         limits: dict[str, int], say: Say) -> str:
    found = [image for image in connection.image.images(name=name) if image.status == "active"]
    same = next((image for image in found if _same(image, path, disk_format)), None)
    if same:
        _amend(connection, same, visibility, properties, limits)
        say(f"{name}: is in Glance already, {same.id}")
        return str(same.id)
    ours = [image for image in found if (image.properties or {}).get(MARK) == name]
    if len(found) > len(ours):
        raise UploadError(f"there is an image '{name}' that this command has not made ({found[0].id}); choose another --name, or delete it")
    began = time.monotonic()
    identity = _create(connection, path, {"name": name, "disk_format": disk_format, "container_format": container, "visibility": visibility,
                                          **limits, **properties})
    say(f"{name}: {path.stat().st_size // 2**20} MiB uploaded in {time.monotonic() - began:.0f} s, {identity}")
    for old in ours:
        connection.image.update_image(old.id, name=f"{name}-until-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}", os_hidden=True)
        say(f"{name}: the one before, {old.id}, is hidden; delete it when no server needs it")
    return identity


def _same(image: Any, path: Path, disk_format: str) -> bool:
    return bool(image.disk_format == disk_format and image.hash_value and image.size == path.stat().st_size
                and image.hash_value == checksum(path, image.hash_algo))


def _amend(connection: Any, image: Any, visibility: str, properties: dict[str, str], limits: dict[str, int]) -> None:
    """Make what Glance says of an image true again."""
    wanted = {**properties, **limits, "visibility": visibility}
    body = connection.image.get(f"/images/{image.id}").json()
    different = {key: value for key, value in wanted.items() if body.get(key) != value}
    if different:
        patch = [{"op": "add", "path": f"/{key}", "value": value} for key, value in different.items()]
        media = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
        _check(connection.image.patch(f"/images/{image.id}", json=patch, headers=media), "its properties could not be changed")


def _create(connection: Any, path: Path, attributes: dict[str, Any]) -> str:
    """Make an image and send its data; none is left if that fails."""
    answer = _check(connection.image.post("/images", json=attributes), f"the image '{attributes['name']}' could not be made")
    identity = str(answer.json()["id"])
    try:
        with path.open("rb") as file:
            headers = {"Content-Type": "application/octet-stream", "Accept": ""}
            _check(connection.image.put(f"/images/{identity}/file", data=file, headers=headers), "the data were not taken")
    except BaseException:
        connection.image.delete_image(identity, ignore_missing=True)
        raise
    return identity


def _check(answer: Any, failure: str) -> Any:
    if answer.status_code >= 400:
        hint = {
            403: "making an image public takes the role admin; try --visibility private, or ask for a larger quota",
            409: "look at it with: openstack image list", 413: "the project's quota of images is used up",
        }
        way_out = hint.get(answer.status_code, "see Glance's log")
        raise UploadError(f"{failure}: Glance says {answer.status_code} {answer.text[:300].strip()}; {way_out}")
    return answer
