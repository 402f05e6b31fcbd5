"""The fault matrix: every row is held by a test, every mark is a row's, and the page shows it."""

from __future__ import annotations

import subprocess
import sys

from tests.harness.matrix import MATRIX, ROWS, TESTS, proofs


def test_names_of_rows_are_no_ones_else() -> None:
    assert len(ROWS) == sum(len(rows) for rows in MATRIX.values())


def test_every_row_has_a_test() -> None:
    assert sorted(set(ROWS) - set(proofs())) == []


def test_every_mark_is_a_row() -> None:
    assert {row: tests for row, tests in proofs().items() if row not in ROWS} == {}


def test_the_page_is_up_to_date() -> None:
    assert subprocess.call([sys.executable, TESTS.parent / "tools" / "draw-faults", "--check"]) == 0, "run tools/draw-faults"
