"""Names that a worker gives, and where they lead below the root."""

import os

from cml_nova.remote.runner.errors import Refused

NAME_SIGNS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-")


def check_name(name: object, what: str) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= 128 or name[0] in ".-" or not NAME_SIGNS.issuperset(name):
        raise Refused("%s: not a usable name" % what)
    return name


def inside(root: str, name: object, what: str) -> str:
    """Give the path of a relative name below the root."""
    if not isinstance(name, str) or not name:
        raise Refused("%s: a relative path is needed" % what)
    for part in name.split("/"):
        if part in ("", ".", "..") or "\0" in part:
            raise Refused("%s: %r is not a plain relative path" % (what, name))
    return os.path.join(root, name)


def digest_file(root: str, name: str) -> str:
    return inside(root, name, "name") + ".sha256"
