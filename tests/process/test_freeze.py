"""A process held still, and let go again whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagescan.errors import AccessDenied, NoSuchProcess
from pagescan.process import freeze
from pagescan.process.freeze import ByGroup, BySignal, Freezer, way_of

from . import killing, targets
from .targets import running, wait_for_state

SPIN = "import sys; print('ready', flush=True)\nwhile True: pass"


@pytest.fixture
def spinning() -> Iterator[int]:
    with running(*targets.python(SPIN)) as process:
        yield process.pid


@pytest.fixture
def freezer(spinning) -> Iterator[Freezer]:
    made = Freezer(spinning)
    yield made
    made.close()


@pytest.fixture
def group(spinning) -> Iterator[Path]:
    """A control group of version 2 that holds the spinning process alone."""
    for root in freeze._GROUPS:
        made = root / "pagescan-test-freeze"
        with contextlib.suppress(OSError):
            made.mkdir(exist_ok=True)
            (made / "cgroup.procs").write_text(str(spinning))
            if (made / "cgroup.freeze").exists():
                break
    else:
        pytest.skip("no control groups of version 2 can be made here")
    yield made
    os.kill(spinning, signal.SIGKILL)
    os.waitid(os.P_PID, spinning, os.WEXITED | os.WNOWAIT)
    made.rmdir()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def ticks(pid: int) -> list[str]:
    """Processor time used so far."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]


class TestBySignal:
    def test_it_stands_still_and_goes_on(self, freezer, spinning):
        assert way_of(spinning) == BySignal(spinning) or isinstance(way_of(spinning), ByGroup)
        with freezer.frozen():
            used = ticks(spinning)
            with freezer.frozen():
                pass  # within another nothing more happens
            assert ticks(spinning) == used
        wait_for_state(spinning, "R")

    def test_an_exception_lets_it_go_on(self, freezer, spinning):
        with pytest.raises(ZeroDivisionError), freezer.frozen():
            raise ZeroDivisionError
        wait_for_state(spinning, "R")

    def test_one_that_was_stopped_stays_so(self, freezer, spinning):
        os.kill(spinning, signal.SIGSTOP)
        wait_for_state(spinning, "T")
        with freezer.frozen():
            pass
        assert state(spinning) == "T"

    def test_one_that_has_exited(self):
        with running(*targets.python(SPIN)) as process:
            pass
        with pytest.raises(NoSuchProcess), Freezer(process.pid).frozen():
            pass

    def test_one_that_is_killed_meanwhile(self, freezer, spinning):
        with freezer.frozen():
            os.kill(spinning, signal.SIGKILL)
        ended = os.waitid(os.P_PID, spinning, os.WEXITED | os.WNOWAIT)
        assert ended
        assert ended.si_status == signal.SIGKILL

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs somebody else's process")
    def test_somebody_elses(self, spinning):
        def work() -> None:
            with pytest.raises(AccessDenied) as caught, Freezer(spinning).frozen():
                pass
            assert "sudo" in (caught.value.hint or "")

        assert killing.as_nobody(work) == 0
        assert state(spinning) == "R"

    def test_the_guardian_ends_with_the_freezer(self, freezer):
        with freezer.frozen():
            guardian = freezer._guardian
        assert guardian is not None
        assert guardian.poll() is None
        freezer.close()
        assert guardian.returncode == 0


@pytest.mark.parametrize("way", ["signal", "group"])
def test_a_killed_tracker_leaves_it_running(spinning, way, request):
    if way == "group":
        request.getfixturevalue("group")
    code = f"""
import os, signal
from pagescan.process.freeze import Freezer
with Freezer({spinning}).frozen():
    print("frozen", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, timeout=120, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "frozen\n")
    used = ticks(spinning)
    wait_for_state(spinning, "R")
    while ticks(spinning) == used:
        assert state(spinning) == "R"


class TestByGroup:
    def test_it_stands_still_and_nobody_is_told(self, freezer, spinning, group):
        assert way_of(spinning) == ByGroup(group)
        with freezer.frozen():
            used = ticks(spinning)
            assert "frozen 1" in (group / "cgroup.events").read_text()
            assert state(spinning) != "T"
            assert ticks(spinning) == used
        assert (group / "cgroup.freeze").read_text() == "0\n"

    def test_a_group_that_holds_others_is_not_used(self, spinning, group):
        with running(*targets.python(SPIN)) as other:
            (group / "cgroup.procs").write_text(str(other.pid))
            assert way_of(spinning) == BySignal(spinning)
