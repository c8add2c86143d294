"""A pytest plugin: each test's start and outcome to the console, as a line of JSON."""

import json
import os

import pytest

MARK = "@@pagescan@@"
#: Characters of a failure's text that are sent.
LONGEST = 6000

_console = os.open("/dev/console", os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)


def _emit(**message: object) -> None:
    os.write(_console, f"\n{MARK}{json.dumps(message)}\n".encode())


def pytest_collection_finish(session: pytest.Session) -> None:
    _emit(collected=len(session.items))


def pytest_runtest_logstart(nodeid: str) -> None:
    _emit(start=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    failed_around = report.failed and report.when != "call"
    if report.when == "call" or (report.when == "setup" and report.skipped) or failed_around:
        _emit(
            test=report.nodeid,
            outcome="skipped" if report.skipped else report.outcome,
            seconds=round(report.duration, 3),
            text=_text(report),
            properties=dict(report.user_properties),
        )


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A module that skips itself, or cannot be imported."""
    if report.outcome != "passed":
        _emit(test=report.nodeid, outcome=report.outcome, seconds=0, text=_text(report))


def _text(report: pytest.TestReport | pytest.CollectReport) -> str:
    if report.passed:
        return ""
    if hasattr(report, "wasxfail"):
        return f"expected to fail: {report.wasxfail}"
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    text = report.longreprtext
    return text if len(text) <= LONGEST else text[:1000] + "\n[...]\n" + text[-(LONGEST - 1000) :]
