"""Keeps packages, logs and outputs: one small interface, drivers by entry point."""

from cml_nova.storage.base import Storage, get_storage

__all__ = ["Storage", "get_storage"]
