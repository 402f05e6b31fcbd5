"""Images of guests: the plain one, and those that are built by recipes."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cml_nova.localcloud import images
from cml_nova.localcloud.images import ImageError, ImageStore
from tests.functional.localcloud.guests import PORT


def test_the_plain_image_is_always_there(store: ImageStore) -> None:
    plain = next(image for image in store.list() if image.name == "plain")
    assert plain.properties["cml_framework"] == "custom"
    assert plain.properties["cml_ssh_port"] == str(PORT)
    assert (plain.bin / "python3").exists()


def test_an_image_that_is_not_built_says_how_to_build_it(store: ImageStore) -> None:
    with pytest.raises(ImageError, match="image build mxnet"):
        store.get("mxnet")


@pytest.fixture
def tiny_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """An image whose framework is a package on this disk, so that pip needs no registry. Give the version."""
    source, environments = tmp_path / "source", tmp_path / "environments"
    source.mkdir()
    environments.mkdir()
    monkeypatch.setattr(images, "ENVIRONMENTS", environments)

    def write(version: str) -> None:
        wheel(source, version)
        head = "# python: 3.8 - 3.20\n# framework: tiny\n"
        (environments / "tiny.txt").write_text(f"{head}--no-index\n--find-links {source}\ntiny=={version}\n")

    return write


def wheel(directory: Path, version: str) -> None:
    """Make a wheel of a package ``tiny`` whose only module says its version."""
    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(directory / f"tiny-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny.py", f"version = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_an_image_is_built_once_and_again_when_its_recipe_changes(tmp_path: Path, tiny_recipe: Callable[[str], None]) -> None:
    store = ImageStore(tmp_path / "images")
    lines: list[str] = []
    tiny_recipe("1.0")
    with ThreadPoolExecutor(2) as pool:  # two at the same time
        first, second = pool.map(lambda _: ImageStore(tmp_path / "images").build("tiny", lines.append), range(2))
    assert first == second
    assert sum("up to date" in line for line in lines) == 1
    assert [image.name for image in store.list()] == ["plain", "tiny", "simulated"]
    assert (first.properties["cml_framework"], first.properties["cml_framework_version"]) == ("tiny", "1.0")
    program: list[str | Path] = [first.bin / "python3", "-c", "import tiny; print(tiny.version)"]
    assert subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True).stdout == "1.0\n"

    recipe = images.ENVIRONMENTS / "tiny.txt"
    recipe.write_text(recipe.read_text().replace("tiny==1.0", "tiny==2.0"))  # which is nowhere
    with pytest.raises(ImageError, match="No matching distribution"):
        store.build("tiny", images.print_nothing)
    assert [image.name for image in store.list()] == ["plain", "simulated"]


def test_without_a_fitting_python_the_build_says_what_it_looked_at(tmp_path: Path, tiny_recipe: Callable[[str], None]) -> None:
    tiny_recipe("1.0")
    (images.ENVIRONMENTS / "tiny.txt").write_text("# python: 3.2 - 3.3\n# framework: tiny\ntiny==1.0\n")
    with pytest.raises(ImageError, match=r"needs Python 3\.2 to 3\.3.*found only: .*python"):
        ImageStore(tmp_path / "images").build("tiny", images.print_nothing)


def test_the_shipped_recipes_are_sound() -> None:
    assert images.recipes() == ["mxnet", "tensorflow"]
    assert (images.recipe("tensorflow").version, images.recipe("mxnet").version) == ("2.21.0", "1.9.1")
    assert images.recipe("tensorflow").without_deps
