"""The documentation says what the code does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cml_nova.conf import opts
from cml_nova.frameworks.base import get_framework

REPOSITORY = Path(__file__).resolve().parents[3]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "doc").glob("*.md"))]


def test_drawn_states_are_those_of_the_code() -> None:
    assert subprocess.call([sys.executable, REPOSITORY / "tools" / "draw-states", "--check"]) == 0, "run tools/draw-states"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_pages_name_are_there(page: Path) -> None:
    options = {group: {option.dest for option in found} for group, found in opts.own_opts()}
    named = re.findall(r"`\[(\w+)\] (\w+)", page.read_text())
    assert [(group, name) for group, name in named if name not in options.get(group, {name})] == []


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("examples/*/job*.json")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_examples_ask_for_roles_that_their_framework_takes(path: Path) -> None:
    document = json.loads(path.read_text())
    framework = get_framework(document["framework"]["name"])
    roles = document.get("roles") or {next(iter(framework.roles)): {"count": document["workers"]}}
    framework.check({role: value["count"] for role, value in roles.items()})
    assert (path.parent / document["command"][1]).exists()
