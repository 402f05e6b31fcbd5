"""Lists of all options, for registration and for the generated sample."""

from __future__ import annotations

from importlib import import_module

from oslo_config import cfg

GROUPS = ("api", "cloud", "conductor", "cost", "quota", "remote", "secrets", "storage", "tunnel", "worker")


def own_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Give (group, options) of the service's own groups."""
    return [(name, import_module(f"cml_nova.conf.{name}").OPTS) for name in GROUPS]


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Entry point of oslo.config's sample generator."""
    return [*own_opts(), ("cloud", import_module("cml_nova.conf.cloud").auth_opts())]
