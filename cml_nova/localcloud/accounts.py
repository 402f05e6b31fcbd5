"""Keystone's state: the users, projects, roles and tokens of the cloud, and the clouds.yaml that names them."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cml_nova.localcloud import errors
from cml_nova.localcloud.store import Document, Store
from cml_nova.localcloud.timers import Clock

REGION = "local"
DOMAIN = {"id": "default", "name": "Default"}

# Keystone's implied roles: who has the first has the others too.
IMPLIED = {"admin": {"manager", "member", "reader"}, "manager": {"member", "reader"}, "member": {"reader"}}
ROLES = ("admin", "manager", "member", "reader", "service", "observer")

# cloud in clouds.yaml: user, project, roles
ACCOUNTS = {
    "local": ("demo", "demo", ("member",)),
    "local-other": ("other", "other", ("member",)),
    "local-admin": ("admin", "admin", ("admin",)),
    "local-service": ("cml_nova", "service", ("service", "member")),
    "local-reader": ("reader", "demo", ("reader",)),
    "local-norole": ("norole", "demo", ("observer",)),
}


@dataclass(frozen=True)
class Token:
    """A valid token: who its bearer is, where, with which roles (names, implied ones too), and until when."""

    user: Document
    project: Document | None
    roles: tuple[str, ...]
    issued_at: float
    expires_at: float
    methods: tuple[str, ...]
    audit_id: str

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles

    @property
    def project_id(self) -> str:
        """Id of the project of the token.

        :raises ApiError: 401, since services other than Keystone do nothing for a token without a project.
        """
        if self.project is None:
            raise errors.unauthorized()
        return str(self.project["id"])


class Accounts:
    """Users, projects and tokens.

    :param ttl: life of a token in seconds.
    """

    def __init__(self, store: Store, clock: Clock, ttl: float = 3600) -> None:
        self._store = store
        self._clock = clock
        self.ttl = ttl

    def bootstrap(self, passwords: dict[str, str]) -> None:
        """Make the roles, projects and users that are not there yet.

        :param passwords: password by user name, of every user in ``ACCOUNTS``.
        """
        with self._store as store:
            for role in ROLES:
                if not store.find("role", name=role):
                    store.put("role", {"id": uuid.uuid4().hex, "name": role})
            for name, project, roles in ACCOUNTS.values():
                project_id = self.add_project(project)["id"]
                users = store.find("user", name=name)
                if users:
                    store.update("user", users[0]["id"], password=_digest(passwords[name]))
                else:
                    self.add_user(name, passwords[name], project_id)
                self.grant(name, project_id, roles)

    def add_project(self, name: str, description: str = "") -> Document:
        """Give the project of that name, a new one if there is none."""
        found = self._store.find("project", name=name)
        return found[0] if found else self._store.put("project", {
            "id": uuid.uuid4().hex, "name": name, "domain_id": DOMAIN["id"], "description": description, "enabled": True})

    def add_user(self, name: str, password: str, project_id: str | None) -> Document:
        """Make a user."""
        return self._store.put("user", {"id": uuid.uuid4().hex, "name": name, "domain_id": DOMAIN["id"], "enabled": True,
                                        "password": _digest(password), "default_project_id": project_id})

    def grant(self, user: str, project_id: str, roles: tuple[str, ...]) -> None:
        """Give a user (by name) roles on a project, beside those it has."""
        user_id = self._store.find("user", name=user)[0]["id"]
        key = f"{user_id}:{project_id}"
        has = (self._store.get("assignment", key) or {"roles": []})["roles"]
        self._store.put("assignment", {"id": key, "user_id": user_id, "project_id": project_id,
                                       "roles": sorted({*has, *roles})})

    def projects_of(self, user_id: str) -> list[Document]:
        """Give the projects on which a user has a role."""
        ids = {item["project_id"] for item in self._store.find("assignment", user_id=user_id)}
        return [project for project in self._store.all("project") if project["id"] in ids]

    def check_password(self, spec: Document) -> Document:
        """Give the user that an ``identity.password.user`` object names.

        :raises ApiError: 401, without saying whether the user or the password is wrong.
        """
        user = self._named("user", spec)
        given = _digest(str(spec.get("password", "")))
        if user is None or not hmac.compare_digest(user["password"], given):
            raise errors.unauthorized()
        return user

    def find_project(self, spec: Document) -> Document:
        """Give the project that a ``scope.project`` object names.

        :raises ApiError: 401.
        """
        project = self._named("project", spec)
        if project is None:
            raise errors.unauthorized()
        return project

    def _named(self, kind: str, spec: Document) -> Document | None:
        if "id" in spec:
            return self._store.get(kind, str(spec["id"]))
        domain = spec.get("domain") or {}
        if DOMAIN["id"] != domain.get("id") and DOMAIN["name"] != domain.get("name"):
            return None
        found = self._store.find(kind, name=spec.get("name"))
        return found[0] if found else None

    def issue(self, user: Document, project: Document | None, methods: list[str], expires_at: float | None = None) -> tuple[str, Token]:
        """Give a new token of a user for a project (None: unscoped): its secret text, and what it stands for.

        :param expires_at: never later than this, in seconds since 1970.
        :raises ApiError: 401, the user has no role on the project.
        """
        now = self._clock()
        expires = min(now + self.ttl, expires_at or now + self.ttl)
        text = "local-" + secrets.token_urlsafe(48)
        with self._store as store:
            document = {"id": _digest(text), "user_id": user["id"], "project_id": project and project["id"], "issued_at": now,
                        "expires_at": expires, "methods": methods, "audit_id": secrets.token_urlsafe(16)}
            token = self._token(document)
            if project is not None and not token.roles:
                raise errors.unauthorized()
            for old in store.all("token"):
                if old["expires_at"] < now:
                    store.remove("token", old["id"])
            store.put("token", document)
        return text, token

    def validate(self, text: str | None) -> Token | None:
        """Give what a token's text stands for, None if it is not valid (any more)."""
        document = self._store.get("token", _digest(text)) if text else None
        if document is None or document["expires_at"] <= self._clock():
            return None
        return self._token(document)

    def _token(self, document: Document) -> Token:
        project_id = document["project_id"]
        granted = self._store.get("assignment", f"{document['user_id']}:{project_id}") or {"roles": []}
        roles = set(granted["roles"])
        roles.update(*(IMPLIED.get(role, set()) for role in granted["roles"]))
        user = self._store.get("user", document["user_id"])
        if user is None:
            raise errors.unauthorized()
        return Token(user=user, project=self._store.get("project", project_id) if project_id else None,
                     roles=tuple(sorted(roles)), issued_at=document["issued_at"], expires_at=document["expires_at"],
                     methods=tuple(document["methods"]), audit_id=document["audit_id"])

    def revoke(self, text: str) -> None:
        """Make a token invalid."""
        with self._store as store:
            store.remove("token", _digest(text))

    def revoke_all(self) -> None:
        """Make every token invalid."""
        with self._store as store:
            for token in store.all("token"):
                store.remove("token", token["id"])

    def role_ids(self) -> dict[str, str]:
        """Give the ids of the roles by name."""
        return {role["name"]: role["id"] for role in self._store.all("role")}


def _digest(secret: str) -> str:
    # A fast hash is enough for random passwords and tokens: they can't be guessed from a list.
    return hashlib.sha256(secret.encode()).hexdigest()


def write_clouds_yaml(path: Path, auth_url: str) -> dict[str, str]:
    """Write the clouds of ``ACCOUNTS`` to a file that only its owner reads; passwords that are in it stay.

    :returns: the users' passwords by name.
    """
    passwords = {user: secrets.token_urlsafe(18) for user, _, _ in ACCOUNTS.values()}
    if path.exists():
        for cloud in yaml.safe_load(path.read_text())["clouds"].values():
            passwords[cloud["auth"]["username"]] = cloud["auth"]["password"]
    clouds: dict[str, Any] = {name: {
        "auth_type": "password", "region_name": REGION, "interface": "public", "identity_api_version": "3",
        "auth": {"auth_url": auth_url, "username": user, "password": passwords[user], "project_name": project,
                 "user_domain_name": DOMAIN["name"], "project_domain_name": DOMAIN["name"]},
    } for name, (user, project, _) in ACCOUNTS.items()}
    partial = path.with_suffix(".new")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        yaml.safe_dump({"clouds": clouds}, file, sort_keys=False)
    partial.replace(path)
    return passwords
