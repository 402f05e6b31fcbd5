"""What pytest shows of a stack when a test fails. For conftest modules: ``from tests.harness.reports import pytest_runtest_makereport``."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show the ends of the daemons' logs with a test that failed."""
    report = yield
    stack = getattr(item, "funcargs", {}).get("session_stack")
    if report.failed and stack is not None:
        for name, text in stack.logs().items():
            report.sections.append((f"end of the log of {name}", text))
    return report
