"""From what a user says of a job to what the service does: names resolved to ids, defaults filled in, limits checked.

Creating a job and planning one are the same up to here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from oslo_config import cfg

from cml_nova import exception
from cml_nova.api.services import Catalog
from cml_nova.compute.catalog import Flavor, Image
from cml_nova.db.models import Package
from cml_nova.frameworks import Framework, Layout, get_framework
from cml_nova.frameworks.base import framework_names
from cml_nova.hints import listing, nearest

T = TypeVar("T")

#: names that the service itself sets for each process
_RESERVED = "CML_"
#: most bytes of all environment variables of a process together; Linux takes 2 MiB with the arguments
_MAX_ENVIRONMENT = 256 * 1024


@dataclass(frozen=True)
class Draft:
    """A job as it would be: ``spec`` is what is kept of it, ``layout`` its nodes and tasks."""

    framework: Framework
    image: Image
    layout: Layout
    spec: dict[str, Any]

    def flavor_of(self, rank: int) -> dict[str, Any]:
        """The flavor of a node."""
        flavor: dict[str, Any] = self.spec["roles"][self.layout.nodes[rank].role]["flavor"]
        return flavor

    @property
    def flavors(self) -> list[dict[str, Any]]:
        """The flavor of each node, by rank."""
        return [self.flavor_of(rank) for rank in range(len(self.layout.nodes))]


def draft(document: Mapping[str, Any], conf: cfg.ConfigOpts, catalog: Catalog, find_package: Callable[[str], Package | None]) -> Draft:
    """Work out a job from a document that fits its schema.

    :param find_package: gives the project's package with this id.
    :raises BadRequest: names the field, and what would do.
    """
    _check_environment(document)
    _check_keys(document.get("ssh_authorized_keys", []))
    framework, image = _framework_and_image(document, catalog)
    counts = _counts(document, framework, conf.api.max_nodes)
    layout = framework.layout(counts)
    package = _package(document, find_package)
    network = document.get("network")
    spec = {
        "framework": {"name": framework.name, "version": _version(document, framework, image)},
        "image": {"id": image.id, "name": image.name, "ssh_user": image.ssh_user, "ssh_port": image.ssh_port},
        "roles": _roles(document, counts, _flavors(document, counts, image, catalog.flavors())),
        "command": document["command"],
        "env": document.get("env", {}),
        "source": None if package is None else {"package": package.id, "sha256": package.sha256, "size": package.size},
        "setup": document.get("setup"),
        "max_run_time": document.get("max_run_time", conf.conductor.default_max_run_time),
        "max_wait_time": document.get("max_wait_time", conf.conductor.default_max_wait_time),
        "max_restarts": document.get("max_restarts", 0),
        "checkpoint_interval": document.get("checkpoint_interval", conf.remote.checkpoint_interval),
        "recover_on_exit_codes": document.get("recover_on_exit_codes", []),
        "hang_timeout": document.get("hang_timeout"),
        "availability_zone": document.get("availability_zone"),
        "network": None if network is None else _resolve("network", lambda: catalog.get_network(network)),
        "ssh_authorized_keys": document.get("ssh_authorized_keys", []),
    }
    return Draft(framework, image, layout, spec)


def totals(plan: Draft) -> dict[str, Any]:
    """Sum up what a job takes: nodes, tasks, vCPUs, RAM in MiB, accelerators by kind."""
    accelerators: Counter[str] = Counter()
    for flavor in plan.flavors:
        if flavor["accelerators"]:
            accelerators[flavor["accelerators"]["kind"]] += flavor["accelerators"]["count"]
    return {
        "nodes": len(plan.layout.nodes),
        "tasks": len(plan.layout.tasks),
        "vcpus": sum(flavor["vcpus"] for flavor in plan.flavors),
        "ram": sum(flavor["ram"] for flavor in plan.flavors),
        "accelerators": [{"kind": kind, "count": count} for kind, count in sorted(accelerators.items())],
    }


def _bad(field: str, message: str, **detail: str) -> exception.BadRequest:
    return exception.BadRequest(f"{field}: {message}", field=field, **detail)


def _resolve(field: str, find: Callable[[], T]) -> T:
    """Look something up in the cloud; what is not there is the fault of the field that named it."""
    try:
        return find()
    except (exception.NotFound, exception.Conflict, exception.CloudRefused) as error:
        raise _bad(field, f"{error.message[0].lower()}{error.message[1:]}") from error


def _check_environment(document: Mapping[str, Any]) -> None:
    env, secrets = document.get("env", {}), document.get("secrets", {})
    for field, variables in (("env", env), ("secrets", secrets)):
        for name in variables:
            if name.startswith(_RESERVED):
                raise _bad(f"{field}.{name}", f"names that begin with {_RESERVED} are set by the service; choose another name.")
    both = sorted(set(env) & set(secrets))
    if both:
        raise _bad(f"secrets.{both[0]}", "the variable is given in env, too; give it in one of them.", conflicts_with=f"env.{both[0]}")
    size = sum(len(name.encode()) + len(value.encode()) + 2 for part in (env, secrets) for name, value in part.items())
    if size > _MAX_ENVIRONMENT:
        raise _bad("env", f"env and secrets have {size} bytes together, at most {_MAX_ENVIRONMENT} are allowed; "
                          "put large data into the package.")


def _check_keys(keys: Sequence[str]) -> None:
    for index, key in enumerate(keys):
        parse_public_key(f"ssh_authorized_keys.{index}", key)


def parse_public_key(field: str, line: str) -> str:
    """Give the type and the base64 of a public key, without the comment.

    :param field: is named where it is none.
    :raises BadRequest: it is none.
    """
    try:
        serialization.load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise _bad(field, "it is not a valid SSH public key; give the content of a file like id_ed25519.pub.") from None
    return " ".join(line.split()[:2])


def _framework_and_image(document: Mapping[str, Any], catalog: Catalog) -> tuple[Framework, Image]:
    wanted, image_name = document.get("framework"), document.get("image")
    if image_name is None:
        if wanted is None:
            raise _bad("framework", f"the job needs a framework or an image; {listing('frameworks', sorted(framework_names()))}.")
        framework = get_framework(wanted["name"])
        field = "framework.version" if "version" in wanted else "framework.name"
        return framework, _resolve(field, lambda: catalog.find_image(wanted["name"], wanted.get("version")))
    image = _resolve("image", lambda: catalog.get_image(image_name))
    if wanted is None:
        return get_framework(image.framework or "custom"), image
    _check_agreement(wanted, image)
    return get_framework(wanted["name"]), image


def _check_agreement(wanted: Mapping[str, str], image: Image) -> None:
    """An image may carry another label than the framework asked for only where that takes any image."""
    if wanted["name"] == "custom" or image.framework is None:
        return
    if image.framework != wanted["name"]:
        raise _bad("image", f"the image {image.name!r} is for the framework {image.framework}, not for {wanted['name']}; remove "
                            "the image or the framework, or choose the framework 'custom'.", conflicts_with="framework")
    version = wanted.get("version", image.framework_version)
    if version != image.framework_version:
        raise _bad("framework.version", f"the image {image.name!r} has {image.framework} {image.framework_version}, not {version}; "
                                        "remove one of them.", conflicts_with="image")


def _version(document: Mapping[str, Any], framework: Framework, image: Image) -> str | None:
    labelled = image.framework_version if image.framework == framework.name else None
    version: str | None = document.get("framework", {}).get("version", labelled)
    return version


def _counts(document: Mapping[str, Any], framework: Framework, max_nodes: int) -> dict[str, int]:
    """How many nodes of each role, in the framework's order of roles."""
    first = next(iter(framework.roles))
    if "workers" in document and "roles" in document:
        short = document["workers"]
        raise _bad("workers", f"'workers: {short}' is short for 'roles: {{{first}: {{count: {short}}}}}'; remove one of them.",
                   conflicts_with="roles")
    if "roles" in document:
        given = {role: entry["count"] for role, entry in document["roles"].items()}
        for role in given:
            if role not in framework.roles:
                raise _bad(f"roles.{role}", f"{framework.name} has no such role; {nearest(role, 'roles', framework.roles)}.")
        field = "roles"
    else:
        given = {first: document.get("workers", 1)}
        field = "workers"
    total = sum(given.values())
    if total > max_nodes:
        raise _bad(field, f"the job wants {total} nodes, but at most {max_nodes} are allowed; ask for fewer, or ask your cloud's operator "
                          "to raise the limit (max_nodes in section [api] of the service's configuration).")
    framework.check(given)
    return {role: given[role] for role in framework.roles if role in given}


def _flavors(document: Mapping[str, Any], counts: Mapping[str, int], image: Image, known: Sequence[Flavor]) -> dict[str, Flavor]:
    """The flavor of each role."""
    by_name = {flavor.name: flavor for flavor in known} | {flavor.id: flavor for flavor in known}
    names = [flavor.name for flavor in known]
    flavors = {}
    for role in counts:
        own = document.get("roles", {}).get(role, {}).get("flavor")
        field = "flavor" if own is None else f"roles.{role}.flavor"
        name = own if own is not None else document.get("flavor")
        if name is None:
            raise exception.BadRequest(f"flavor is required, for the job or for its role {role!r}; {listing('flavors', names)}.",
                                       field="flavor")
        if name not in by_name:
            raise _bad(field, f"there is no flavor {name!r}; {nearest(name, 'flavors', names)}.")
        flavor = by_name[name]
        if not image.fits(flavor):
            raise _bad(field, f"{_too_small(flavor, image)}; {_large_enough(image, known)}.")
        flavors[role] = flavor
    return flavors


def _too_small(flavor: Flavor, image: Image) -> str:
    resources = (("RAM", flavor.ram, image.min_ram), ("disk", flavor.disk * 1024, image.min_disk * 1024))
    short = [(f"{_size(has)} of {what}", f"{_size(needs)} of {what}") for what, has, needs in resources if has < needs]
    has, needs = map(" and ".join, zip(*short, strict=True))
    return f"the flavor {flavor.name!r} has {has}, but the image {image.name!r} needs {needs}"


def _size(mebibytes: int) -> str:
    return f"{mebibytes} MiB" if mebibytes % 1024 else f"{mebibytes // 1024} GiB"


def _large_enough(image: Image, known: Sequence[Flavor]) -> str:
    names = [flavor.name for flavor in known if image.fits(flavor)]
    return f"large enough are: {', '.join(names)}" if names else "no flavor is large enough, so choose another image"


def _roles(document: Mapping[str, Any], counts: Mapping[str, int], flavors: Mapping[str, Flavor]) -> dict[str, Any]:
    given = document.get("roles", {})
    return {role: {"count": count, "flavor": flavor_view(flavors[role]), "command": given.get(role, {}).get("command")}
            for role, count in counts.items()}


def accelerators_of(flavor: Mapping[str, Any]) -> int:
    """How many accelerators a node with a flavor has, as a job's ``spec`` represents it."""
    return int((flavor["accelerators"] or {"count": 0})["count"])


def flavor_view(flavor: Flavor) -> dict[str, Any]:
    """Represent a flavor as a job's ``spec`` does."""
    has = flavor.accelerator_kind is not None and flavor.accelerator_count > 0
    return {"id": flavor.id, "name": flavor.name, "vcpus": flavor.vcpus, "ram": flavor.ram,
            "accelerators": {"kind": flavor.accelerator_kind, "count": flavor.accelerator_count} if has else None}


def _package(document: Mapping[str, Any], find_package: Callable[[str], Package | None]) -> Package | None:
    if "source" not in document:
        return None
    package_id = document["source"]["package"]
    package = find_package(package_id)
    if package is None:
        raise _bad("source.package", f"the project has no code package {package_id!r}; name one that it has, or upload the code.")
    return package
