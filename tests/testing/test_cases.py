"""The suite finds what it is there to find: an engine that misses, and one that names too much without saying so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import numpy as np, pytest
from pagescan.testing import FakeMemory, TrackerCases
from pagescan.testing.fake import FakeEngine, FakeSpace

class Engine(FakeEngine):
    {body}

class Space(FakeSpace):
    def make_engine(self, name):
        return (Engine if {broken} else FakeEngine)(self._memory)
    def prove_tracking(self):
        return super().prove_tracking()

class TestIt(TrackerCases):
    engine = "fake"
    @pytest.fixture
    def memory(self, monkeypatch):
        monkeypatch.setattr("pagescan.trackers.choose.prove", lambda *_: "believed")
        memory = FakeMemory(8 * 4096)
        memory.space = Space(memory)
        return memory
"""
SOUND = "pass"
#: Forgets what was written to page 2.
MISSES = """
    def take(self, extents):
        findings = super().take(extents)
        low = self._memory.address + 2 * 4096
        findings.written = findings.written - findings.written.clip(low, low + 4096)
        return findings
"""
#: Names the neighbour too.
EXAGGERATES = """
    def take(self, extents):
        findings = super().take(extents)
        pages = findings.written.pages() + np.uint64(4096)
        inside = pages[pages < self._memory.address + self._memory.nbytes]
        findings.written |= type(findings.written).from_pages(inside, 2)
        return findings
"""
#: Takes where it should only look.
TAKES = """
    def peek(self, extents):
        findings = super().peek(extents)
        for extent in extents:
            self._memory.written[self._pages(extent)] = False
        return findings
"""


def run(tmp_path: Path, body: str, *cases: str) -> tuple[set[str], str]:
    """Those of the cases that fail for an engine with this body."""
    path = tmp_path / "test_it.py"
    path.write_text(SUITE.format(body=body.strip(), broken=body != SOUND))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", "-rfE", str(path)]
    command += ["-k", " or ".join(case.partition("[")[0] for case in cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode in (0, 1), done.stdout
    assert "\nERROR" not in done.stdout, done.stdout
    failed = {line.split("::")[2].split()[0] for line in done.stdout.splitlines() if line.startswith("FAILED")}
    return failed, done.stdout


def test_a_sound_engine_passes(tmp_path):
    failed, output = run(tmp_path, SOUND)
    assert failed == set(), output
    assert "passed" in output


@pytest.mark.parametrize(
    ("body", "caught_by", "words"),
    [
        (MISSES, {"test_every_unit_every_time"}, "changed and are not named"),
        (EXAGGERATES, {"test_one_byte_is_one_unit_once[first]"}, "calls itself exact"),
        (TAKES, {"test_peek_and_changed_leave_everything_due"}, ""),
    ],
    ids=["misses", "exaggerates", "takes"],
)
def test_a_broken_engine_is_caught(tmp_path, body, caught_by, words):
    failed, output = run(tmp_path, body, *caught_by)
    assert caught_by <= failed, output
    assert words in output
