"""Names that a worker gives, and where they lead."""

from __future__ import annotations

import pytest

from cml_nova.remote.runner.errors import Refused
from cml_nova.remote.runner.paths import check_name, inside


@pytest.mark.parametrize("name", ["worker:0", "ps:12", "a", "A-b_c.d"])
def test_good_names(name: str) -> None:
    assert check_name(name, "task") == name


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "-x", "a/b", "a b", "a\n", "é", "x" * 129, None, 5])
def test_bad_names(name: object) -> None:
    with pytest.raises(Refused):
        check_name(name, "task")


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../b", "a//b", "./a", "a\0b", None])
def test_paths_stay_below_the_root(name: object) -> None:
    assert inside("/r", "a/b", "name") == "/r/a/b"
    with pytest.raises(Refused):
        inside("/r", name, "name")
