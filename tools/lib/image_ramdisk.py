"""Makes the initial RAM disk of a guest image: BusyBox, the drivers of clouds' disks, and etc/image/ramdisk/init."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import image_recipes

BUSYBOX = "usr/bin/busybox"
_TRAILER = "TRAILER!!!"

Run = Callable[..., None]


def build(root: Path, output: Path, run: Run) -> None:
    """Write the RAM disk for the kernel that a root directory has.

    :param run: runs a command to its end, or raises.
    """
    names = (image_recipes.ETC / "rootfs/usr/share/initramfs-tools/modules.d/cml").read_text().split()
    (version,) = [path.name for path in (root / "usr/lib/modules").iterdir()]
    lines: list[str] = []
    for name in names:
        run(["chroot", str(root), "modprobe", "--set-version", version, "--show-depends", name], f"the module {name}", lines=lines,
            check=False)  # a kernel has not all of them
    modules = [root / path for path in module_files("".join(lines))]
    entries: list[tuple[str, int, bytes]] = [
        ("bin", 0o40755, b""), ("modules", 0o40755, b""), ("init", 0o100755, (image_recipes.ETC / "ramdisk/init").read_bytes()),
        ("bin/busybox", 0o100755, (root / BUSYBOX).read_bytes()),
        ("modules.list", 0o100644, "".join(f"{path.name}\n" for path in modules).encode()),
        *((f"modules/{path.name}", 0o100644, path.read_bytes()) for path in modules),
    ]
    output.write_bytes(archive(entries))


def module_files(text: str) -> list[str]:
    """Give the files that modprobe would load, relative to the root, in its order and each once; what is built in has none."""
    files = [line.split()[1].lstrip("/") for line in text.splitlines() if line.startswith("insmod ")]
    return list(dict.fromkeys(files))


def archive(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Make a cpio archive as the kernel reads it ("newc").

    :param entries: path, mode and content of each.
    """
    data = bytearray()
    for number, (name, mode, content) in enumerate([*entries, (_TRAILER, 0, b"")], start=1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        data += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        data += bytes(-len(data) % 4)
        data += content
        data += bytes(-len(data) % 4)
    return bytes(data)
