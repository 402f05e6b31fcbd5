"""Makes a bootable disk from a root directory: GPT, boot loader for BIOS and for UEFI, one ext4 file system.

Everything is written into a plain file at its offset. Nothing is mounted, and neither loop devices nor the device mapper are used,
so that it works in containers too. GRUB is put together from its modules by grub-mkimage; what grub-install would add is only where
the first sector finds the rest, which is written here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import image_root

SECTOR = 512
MIB = 2**20
BIOS_AT, ESP_AT, ROOT_AT = 1 * MIB, 2 * MIB, 8 * MIB
ESP_SIZE = ROOT_AT - ESP_AT
LABEL = "cml-root"
KERNEL_OPTIONS = f"root=LABEL={LABEL} rw console=tty0 console=ttyS0 quiet fsck.mode=skip"
GRUB_PREFIX = "(,gpt3)/boot/grub"  # on the disk that the firmware has booted
GRUB_MODULES = ("part_gpt", "ext2", "normal", "linux")
GRUB_BIOS, GRUB_EFI = Path("/usr/lib/grub/i386-pc"), Path("/usr/lib/grub/x86_64-efi")
_KERNEL_SECTOR = 0x5C  # in GRUB's boot.img: the sector of core.img
_BLOCK_LIST = SECTOR - 12  # in core.img's first sector: the sector of the rest
_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_BIOS = "21686148-6449-6E6F-744E-656564454649"
_ROOT = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"  # what systemd-repart calls "root" on x86-64

Run = Callable[..., None]


def size_for(used: int) -> int:
    """Give the size in bytes of a disk for so many bytes of files: some room to start with; the node's disk grows to its flavor's."""
    return -(-(ROOT_AT + int(used * 1.12) + 96 * MIB) // (64 * MIB)) * 64 * MIB


def partitions() -> str:
    """Word the partition table for sfdisk; the last partition takes the rest."""
    rows = ((BIOS_AT, ESP_AT - BIOS_AT, _BIOS, "bios"), (ESP_AT, ESP_SIZE, _ESP, "efi"))
    lines = [f"start={start // SECTOR}, size={size // SECTOR}, type={kind}, name={name}" for start, size, kind, name in rows]
    return "\n".join(["label: gpt", *lines, f"start={ROOT_AT // SECTOR}, type={_ROOT}, name={LABEL}", ""])


def build(root: Path, work: Path, output: Path, *, kernel_options: str, compress: bool, run: Run) -> None:
    """Make the disk as a qcow2 file.

    :param work: a directory for files in between.
    :param kernel_options: all of the kernel's command line.
    :param compress: take longer for a smaller file.
    """
    raw = work / "disk.raw"
    raw.unlink(missing_ok=True)
    with raw.open("wb") as file:
        file.truncate(size_for(image_root.used(root)))
    run(["sfdisk", "--quiet", str(raw)], "the partition table", input=partitions())
    write_menu(root, kernel_options)
    _file_system(root, raw, run)
    _efi(work, raw, run)
    _bios(work, raw, run)
    options = ["-c", "-m", "4", "-W"] if compress else []
    run(["qemu-img", "convert", *options, "-f", "raw", "-O", "qcow2", str(raw), str(output)], "the qcow2 file")
    raw.unlink()


def write_menu(root: Path, kernel_options: str) -> None:
    """Tell GRUB the only thing it ever boots."""
    kernel, ramdisk = (path.relative_to(root) for path in image_root.kernel_files(root))
    menu = root / "boot/grub/grub.cfg"
    menu.parent.mkdir(exist_ok=True)
    menu.write_text(f"linux /{kernel} {kernel_options}\ninitrd /{ramdisk}\nboot\n")


def _file_system(root: Path, raw: Path, run: Run) -> None:
    table: list[str] = []
    run(["sfdisk", "--json", str(raw)], "the partition table", lines=table)
    size = json.loads("".join(table))["partitiontable"]["partitions"][-1]["size"] * SECTOR
    extended = f"offset={ROOT_AT},lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0"
    run(["mke2fs", "-q", "-t", "ext4", "-L", LABEL, "-m", "1", "-E", extended, "-d", str(root), str(raw), f"{size // 1024}k"],
        "the file system")


def _efi(work: Path, raw: Path, run: Run) -> None:
    loader, system = work / "BOOTX64.EFI", work / "esp.img"
    run(["grub-mkimage", "-O", "x86_64-efi", "-p", GRUB_PREFIX, "-o", str(loader), *GRUB_MODULES], "GRUB for UEFI")
    with system.open("wb") as file:
        file.truncate(ESP_SIZE)
    run(["mformat", "-i", str(system), "-v", "EFI", "-T", str(ESP_SIZE // SECTOR), "::"], "the EFI partition")
    run(["mmd", "-i", str(system), "::/EFI", "::/EFI/BOOT"], "the EFI partition")
    run(["mcopy", "-i", str(system), str(loader), "::/EFI/BOOT/BOOTX64.EFI"], "the EFI partition")
    _write(raw, ESP_AT, system.read_bytes())


def _bios(work: Path, raw: Path, run: Run) -> None:
    core = work / "core.img"
    run(["grub-mkimage", "-O", "i386-pc", "-p", GRUB_PREFIX, "-o", str(core), "biosdisk", *GRUB_MODULES], "GRUB for BIOS")
    boot, rest = link_grub((GRUB_BIOS / "boot.img").read_bytes(), core.read_bytes(), BIOS_AT // SECTOR)
    if len(rest) > ESP_AT - BIOS_AT:
        raise ValueError(f"GRUB's core image has {len(rest)} bytes; its partition has {ESP_AT - BIOS_AT}")
    _write(raw, BIOS_AT, rest)
    _write(raw, 0, boot)


def link_grub(boot: bytes, core: bytes, sector: int) -> tuple[bytes, bytes]:
    """Give GRUB's boot code for sector 0 (without the partition table behind it), and its core image, when that begins at ``sector``."""
    first, rest = bytearray(boot[:440]), bytearray(core)
    struct.pack_into("<Q", first, _KERNEL_SECTOR, sector)
    struct.pack_into("<Q", rest, _BLOCK_LIST, sector + 1)
    return bytes(first), bytes(rest)


def _write(raw: Path, offset: int, data: bytes) -> None:
    with raw.open("r+b") as file:
        file.seek(offset)
        file.write(data)
