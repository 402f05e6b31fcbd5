"""tools/build-image: what it would run, what it says of the machine, and the disk's first sectors. No image is built here."""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPOSITORY / "tools" / "lib"))

import build_image  # noqa: E402 -- found by the line above
import image_disk  # noqa: E402
import image_glance  # noqa: E402
import image_ramdisk  # noqa: E402
import image_recipes  # noqa: E402
import image_root  # noqa: E402


def test_pins_are_those_of_the_stand_in_clouds_images() -> None:
    recipe = image_recipes.recipe("mxnet")
    (call,) = recipe.requirements
    assert call[0] == "--constraint" and "mxnet==1.9.1" in Path(call[1]).read_text().split()
    assert call[2:] == ("mxnet", "numpy")
    assert recipe.properties()["cml_framework_version"] == "1.9.1"


def test_nothing_but_the_framework_unless_asked_for() -> None:
    assert not any("scikit-learn" in word for call in image_recipes.recipe("mxnet").requirements for word in call)
    more = image_recipes.recipe("mxnet", ("nvidia-driver",), ("scikit-learn",), "linux-image-amd64")
    assert "scikit-learn" in more.requirements[0]
    assert {"nvidia-driver", "linux-image-amd64"} <= set(more.packages)
    assert "linux-image-cloud-amd64" not in more.packages


def test_tensorflow_gets_tf_keras_without_its_dependencies() -> None:
    first, second = image_recipes.recipe("tensorflow").requirements
    assert "tensorflow-cpu" in first
    assert second[0] == "--no-deps" and "tf-keras==2.21.0" in Path(second[2]).read_text()


@pytest.mark.parametrize("name", image_recipes.frameworks())
def test_every_framework_has_the_runners_python_ssh_and_units(name: str) -> None:
    recipe = image_recipes.recipe(name)
    assert {"python3", "openssh-server", "systemd-sysv", "libpam-systemd"} <= set(recipe.packages)
    assert recipe.properties()["cml_framework"] == name
    assert recipe.properties()["cml_ssh_user"] == "cml"


def test_a_framework_pinned_for_another_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_recipes, "PYTHON", (3, 14))
    with pytest.raises(image_recipes.RecipeError, match="bookworm has"):
        image_recipes.recipe("mxnet")


def test_digest_changes_with_what_is_in_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(image_recipes.ETC, tmp_path / "image")
    monkeypatch.setattr(image_recipes, "ETC", tmp_path / "image")
    before = image_recipes.recipe("mxnet").digest()
    assert before == image_recipes.recipe("mxnet").digest()
    assert before != image_recipes.recipe("mxnet", ("less",)).digest()
    (tmp_path / "image" / "rootfs" / "etc" / "fstab").write_text("")
    assert before != image_recipes.recipe("mxnet").digest()


def test_packages_come_for_the_guests_python_whatever_this_one_is() -> None:
    command = image_root.pip_command(("numpy",), Path("/root/site"))
    assert "--python-version=3.11" in command and "--only-binary=:all:" in command and "--target=/root/site" in command
    assert {"--platform=manylinux_2_28_x86_64", "--platform=manylinux2014_x86_64"} <= set(command)


def test_copyright_notices_stay() -> None:
    command = image_root.bootstrap_command(image_recipes.recipe("custom"), Path("/target"), [])
    assert command.index("--dpkgopt=path-exclude=/usr/share/doc/*") < command.index("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    assert command[-2:] == ["bookworm", "/target"]


def test_files_are_counted_in_blocks_and_links_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    assert image_root.used(tmp_path) == 4096
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert image_root.used(tmp_path) == 4096


def test_disk_has_room_to_start_with_and_ends_on_64_mib() -> None:
    for used in (1, 600 * 2**20, 2 * 2**30):
        size = image_disk.size_for(used)
        assert size % (64 * 2**20) == 0
        assert size - image_disk.ROOT_AT - used >= 96 * 2**20


def test_partitions_do_not_overlap_and_the_last_takes_the_rest() -> None:
    rows = [line.split(", ") for line in image_disk.partitions().splitlines()[1:]]
    numbers = [{key: int(value) for key, value in (part.split("=") for part in row if part[:5] in ("start", "size="))} for row in rows]
    assert [row["start"] * 512 for row in numbers] == [2**20, 2 * 2**20, 8 * 2**20]
    assert all(one["start"] + one["size"] <= other["start"] for one, other in itertools.pairwise(numbers))
    assert "size" not in numbers[-1]


def test_grub_finds_its_core_image_in_the_bios_partition() -> None:
    boot, core = image_disk.link_grub(bytes(512), bytes(2048), 2048)
    assert len(boot) == 440, "what comes after is the partition table's"
    assert struct.unpack_from("<Q", boot, 0x5C) == (2048,)
    assert struct.unpack_from("<Q", core, 500) == (2049,)
    assert len(core) == 2048


def test_grub_boots_the_only_kernel(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    for name in ("vmlinuz-6.1.0-1-cloud-amd64", "initrd.img-6.1.0-1-cloud-amd64"):
        (tmp_path / "boot" / name).touch()
    image_disk.write_menu(tmp_path, "root=LABEL=x quiet")
    assert (tmp_path / "boot/grub/grub.cfg").read_text() == (
        "linux /boot/vmlinuz-6.1.0-1-cloud-amd64 root=LABEL=x quiet\ninitrd /boot/initrd.img-6.1.0-1-cloud-amd64\nboot\n")


class Machine:
    """The machine that builds, as far as it is looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.ran: list[list[str]] = []
        self.lacking: list[str] = []
        self.options = build_image.parse(["mxnet", "--state-dir", str(tmp_path)])
        monkeypatch.setattr(build_image, "missing_packages", lambda: self.lacking)
        monkeypatch.setattr(build_image.os, "geteuid", lambda: 0)
        monkeypatch.setattr(build_image.shutil, "which", lambda name, path=None: "/usr/bin/" + name)

    def check(self) -> None:
        build_image.check_host(self.options, lambda command, what, **_: self.ran.append(command))  # type: ignore[arg-type]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


def test_a_build_needs_root(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_image.os, "geteuid", lambda: 1000)
    with pytest.raises(build_image.BuildError, match="sudo"):
        machine.check()


def test_what_is_missing_is_installed(machine: Machine) -> None:
    machine.lacking = ["mmdebstrap", "mtools"]
    machine.check()
    assert machine.ran[-1][-2:] == ["mmdebstrap", "mtools"]


def test_what_is_missing_is_named_where_it_may_not_be_installed(machine: Machine) -> None:
    machine.lacking = ["mmdebstrap", "mtools"]
    machine.options.no_install = True
    with pytest.raises(build_image.BuildError, match="apt-get install mmdebstrap mtools"):
        machine.check()
    assert not machine.ran


def test_too_little_room(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_image.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 2**30))  # type: ignore[attr-defined]
    with pytest.raises(build_image.BuildError, match=r"1\.0 GiB free; the build needs 3"):
        machine.check()


def test_another_architecture_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    uname = build_image.os.uname()
    monkeypatch.setattr(build_image.os, "uname", lambda: type(uname)((*uname[:4], "aarch64")))
    with pytest.raises(build_image.BuildError, match="aarch64"):
        machine.check()


def test_a_failed_command_says_where_its_output_is(tmp_path: Path) -> None:
    run = build_image.Commands(tmp_path / "build.log")
    with pytest.raises(build_image.BuildError, match=r"(?s)the disk: sh ended with code 3.*build\.log.*no such luck"):
        run(["sh", "-c", "echo no such luck >&2; exit 3"], "the disk")
    run(["sh", "-c", "exit 3"], "the disk", check=False)


def test_a_name_is_a_directory_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        build_image.parse(["mxnet", "--name", "../x", "--state-dir", str(tmp_path)])
    assert "leave out '/'" in capsys.readouterr().err


class Answer:
    def __init__(self, status_code: int = 200, body: dict[str, Any] | None = None, text: str = "") -> None:
        self.status_code, self.text, self._body = status_code, text, body or {}

    def json(self) -> dict[str, Any]:
        return self._body


class Record:
    """An image as openstacksdk gives it."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.__dict__.update(body)
        self.properties = {key: value for key, value in body.items() if key.startswith("cml_")}
        self.hash_algo, self.hash_value = body.get("os_hash_algo"), body.get("os_hash_value")


class Glance:
    """A Glance that keeps what it is sent."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        self.refuse: tuple[str, int] | None = None
        self.image = self

    def _refused(self, method: str) -> bool:
        return self.refuse is not None and self.refuse[0] == method

    def images(self, name: str) -> Iterator[Record]:
        return iter([Record(body) for body in self.kept.values() if body["name"] == name and not body.get("os_hidden")])

    def get(self, path: str) -> Answer:
        return Answer(200, self.kept[path.split("/")[2]])

    def post(self, path: str, json: dict[str, Any]) -> Answer:
        if self.refuse and self._refused("post"):
            return Answer(self.refuse[1], text="no")
        identity = f"image-{len(self.kept)}"
        self.kept[identity] = {"id": identity, "status": "queued", **json}
        return Answer(201, self.kept[identity])

    def put(self, path: str, data: Any, headers: dict[str, str]) -> Answer:
        if self.refuse and self._refused("put"):
            return Answer(self.refuse[1], text="no")
        content = data.read()
        digest = image_glance.hashlib.sha512(content).hexdigest()
        self.kept[path.split("/")[2]].update(status="active", size=len(content), os_hash_algo="sha512", os_hash_value=digest)
        return Answer(204)

    def patch(self, path: str, json: list[dict[str, Any]], headers: dict[str, str]) -> Answer:
        self.kept[path.split("/")[2]].update({change["path"][1:]: change["value"] for change in json})
        return Answer(200)

    def update_image(self, identity: str, **changes: Any) -> None:
        self.kept[identity].update(changes)

    def delete_image(self, identity: str, ignore_missing: bool) -> None:
        del self.kept[identity]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [body for body in self.kept.values() if body["name"] == name]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("disk.qcow2", "vmlinuz", "initrd.img"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def upload(glance: Glance, directory: Path, boot: str = "disk", visibility: str = "private", version: str = "1.9.1") -> str:
    built = {"properties": {"cml_framework": "mxnet", "cml_framework_version": version}, "min_disk": 1, "min_ram": 512,
             "kernel_options": "root=LABEL=cml-root"}
    return image_glance.upload(glance, built, directory, name="cml-mxnet", visibility=visibility, boot=boot, say=lambda _: None)


def test_upload_of_the_same_content_makes_no_second_image(directory: Path) -> None:
    glance = Glance()
    first = upload(glance, directory)
    assert upload(glance, directory) == first
    assert len(glance.kept) == 1
    assert glance.kept[first]["min_disk"] == 1 and glance.kept[first]["cml_framework"] == "mxnet"


def test_properties_are_mended_on_the_image_that_is_there(directory: Path) -> None:
    glance = Glance()
    first = upload(glance, directory)
    assert upload(glance, directory, visibility="public", version="1.9.2") == first
    assert glance.kept[first]["visibility"] == "public" and glance.kept[first]["cml_framework_version"] == "1.9.2"


def test_new_content_takes_the_name_and_hides_the_old(directory: Path) -> None:
    glance = Glance()
    first = upload(glance, directory)
    (directory / "disk.qcow2").write_bytes(b"newer")
    second = upload(glance, directory)
    assert [body["id"] for body in glance.named("cml-mxnet")] == [second]
    assert glance.kept[first]["os_hidden"] is True and glance.kept[first]["name"].startswith("cml-mxnet-until-")


def test_somebody_elses_image_of_that_name_is_left_alone(directory: Path) -> None:
    glance = Glance()
    glance.kept["theirs"] = {"id": "theirs", "name": "cml-mxnet", "status": "active", "disk_format": "qcow2", "size": 1}
    with pytest.raises(image_glance.UploadError, match="choose another --name"):
        upload(glance, directory)
    assert list(glance.kept) == ["theirs"]


def test_kernel_boot_points_to_kernel_and_ramdisk(directory: Path) -> None:
    glance = Glance()
    disk = glance.kept[upload(glance, directory, boot="kernel")]
    assert glance.kept[disk["kernel_id"]]["disk_format"] == "aki"
    assert glance.kept[disk["ramdisk_id"]]["disk_format"] == "ari"
    assert disk["os_command_line"] == "root=LABEL=cml-root"
    upload(glance, directory, boot="kernel")
    assert len(glance.kept) == 3


def test_a_failed_upload_leaves_nothing(directory: Path) -> None:
    glance = Glance()
    glance.refuse = ("put", 413)
    with pytest.raises(image_glance.UploadError, match="413 no; the project's quota of images"):
        upload(glance, directory)
    assert not glance.kept


def test_public_takes_admin(directory: Path) -> None:
    glance = Glance()
    glance.refuse = ("post", 403)
    with pytest.raises(image_glance.UploadError, match="role admin"):
        upload(glance, directory, visibility="public")


def test_an_image_is_known_only_when_it_is_whole(tmp_path: Path) -> None:
    assert build_image.read(tmp_path) is None
    build_image.write(tmp_path, {"digest": "x"})
    assert build_image.read(tmp_path) == json.loads((tmp_path / "image.json").read_text())




def test_ramdisk_has_the_drivers_and_what_they_need_once_and_in_order() -> None:
    text = "builtin ext4\ninsmod /lib/modules/6/virtio.ko \ninsmod /lib/modules/6/virtio_pci.ko \n"
    text += "insmod /lib/modules/6/virtio.ko \ninsmod /lib/modules/6/virtio_blk.ko \n"
    assert [Path(name).name for name in image_ramdisk.module_files(text)] == ["virtio.ko", "virtio_pci.ko", "virtio_blk.ko"]


def test_ramdisk_archive_is_aligned_and_ends_as_the_kernel_expects() -> None:
    data = image_ramdisk.archive([("a", 0o100644, b"x")])
    assert len(data) % 4 == 0 and data.startswith(b"070701") and b"TRAILER!!!\0" in data
    assert data[6 + 6 * 8:6 + 7 * 8] == b"00000001", "the size of the content"
    assert data.index(b"x") % 4 == 0, "content begins on four bytes"
