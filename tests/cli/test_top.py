"""``pagescan top``: its errors, and the view itself on a terminal that tmux keeps."""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("live processes are tracked on Linux only", allow_module_level=True)

import pagescan
from pagescan.cli import main, top

from .conftest import run_confined

#: Seconds anything on the terminal may take to appear, on a machine with better things to do.
PATIENCE = 25
NEEDS_TMUX = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")

#: Writes to half of 1 MiB again and again, until its input is at its end.
WRITER = """
import ctypes, mmap, select, sys
area = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print(hex(ctypes.addressof(ctypes.c_char.from_buffer(area))), flush=True)
while not select.select([sys.stdin], [], [], 0.01)[0]:
    area[: 1 << 19] = bytes(1 << 19)
"""


@pytest.fixture
def on_a_terminal(monkeypatch):
    """Whatever the standard streams are, they pass for terminals."""
    monkeypatch.setattr(top, "_check_terminal", lambda: None)


def can_track() -> None:
    try:
        pagescan.track(pagescan.zeros(1)).close()
    except (pagescan.KernelCannot, pagescan.AccessDenied) as error:
        pytest.skip(f"needs a kernel that can track: {error.message}")
    pytest.importorskip("textual", reason="needs the package textual (the extra cli)")


class TestRefusals:
    @pytest.mark.parametrize("arguments", [(), ("-p", "1", "--", "true"), ("-p", "1", "--socket", "x")])
    def test_exactly_one_process(self, run, arguments):
        answer = run("top", *arguments)
        assert answer.code == 2
        assert "name one process to watch" in answer.err

    def test_shortest_interval(self, run):
        answer = run("top", "-p", "1", "-i", "99ms")
        assert answer.code == 2
        assert "the shortest interval of the view is 100ms" in answer.err
        assert "hint: pagescan record" in answer.err

    def test_log_is_for_a_command(self, run):
        assert run("top", "-p", "1", "--log", "x").code == 2

    def test_without_a_terminal(self, run, target):
        answer = run("top", "-p", target.pid)
        assert answer.code == 2
        assert "the live view needs a terminal" in answer.err
        assert "hint: into a file or a pipe: pagescan record" in answer.err
        assert "Traceback" not in answer.err

    def test_without_textual(self, run, on_a_terminal, monkeypatch):
        monkeypatch.setitem(sys.modules, "textual", None)
        answer = run("top", "-p", 1)
        assert answer.code == 1
        assert "hint: pip install 'pagescan[cli]'" in answer.err

    def test_no_such_process(self, run, on_a_terminal):
        can_track()
        with subprocess.Popen(["true"]) as child:
            pass
        answer = run("top", "-p", child.pid)
        assert answer.code == 3
        assert f"{child.pid}" in answer.err

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
    def test_process_of_another_user(self, target, on_a_terminal, monkeypatch):
        can_track()
        monkeypatch.setattr("pagescan.views.app.TopApp.run", lambda self, **_: False)  # with privileges it would start
        answer = run_confined(lambda: os.setuid(65534), "top", "-p", str(target.pid))
        assert answer.code == 4
        assert "belongs to user 0" in answer.err
        assert "hint: " in answer.err

    def test_kernel_that_cannot(self, run, on_a_terminal, monkeypatch):
        can_track()

        def attach(target, **_):
            raise pagescan.KernelCannot("this kernel has no asynchronous write protection", hint="run Linux 6.7")

        monkeypatch.setattr("pagescan.trackers.process_tracker.attach", attach)
        answer = run("top", "-p", 1)
        assert answer.code == 5
        assert answer.err.endswith("hint: run Linux 6.7\n")

    @pytest.mark.parametrize("option", ["-o", "--log"])
    def test_nothing_is_overwritten(self, run, on_a_terminal, tmp_path, option):
        can_track()
        path = tmp_path / "mine"
        path.write_text("mine")
        answer = run("top", option, path, "--", "true")
        assert answer.code == 1
        assert f"{path} exists" in answer.err
        assert path.read_text() == "mine"

    def test_no_such_program(self, run, on_a_terminal):
        can_track()
        answer = run("top", "--", "no-such-program-anywhere")
        assert answer.code == 2
        assert "there is no program 'no-such-program-anywhere'" in answer.err


def test_command_after_two_dashes_keeps_its_own_options():
    from pagescan.cli import build_parser, load

    parser = build_parser(load(["top"]))
    options = parser.parse_args(["top", "-i", "2s", "--", "ls", "-l", "-i", "x", "--", "y"])
    assert options.program == ["ls", "-l", "-i", "x", "--", "y"]
    assert options.interval == 2_000_000_000


# --- on a real terminal ----------------------------------------------------------------------------------------------


class Terminal:
    """A terminal kept by a tmux of its own."""

    def __init__(self, folder: Path):
        self._base = ["tmux", "-f", "/dev/null", "-S", str(folder / "tmux")]
        self._environment = {name: value for name, value in os.environ.items() if name not in ("TMUX", "NO_COLOR")}
        self._environment |= {"LC_ALL": "C.UTF-8", "PYTHONPATH": str(Path(pagescan.__file__).parents[1])}

    def __call__(self, *words: str) -> str:
        return subprocess.run(
            [*self._base, *words], env=self._environment, capture_output=True, text=True, check=True, timeout=30
        ).stdout

    def start(self, *arguments: str, width: int = 80, height: int = 24) -> None:
        """Run ``pagescan`` with these arguments; then its exit code is shown."""
        command = shlex.join([sys.executable, "-m", "pagescan", *arguments])
        size = ("-x", str(width), "-y", str(height))
        self("new-session", "-d", *size, f"{command}; echo code=$?=; cat")

    def type(self, *keys: str) -> None:
        self("send-keys", *keys)

    def screen(self, *options: str) -> str:
        return self("capture-pane", "-p", *options)

    def await_(self, found: Callable[[str], bool]) -> str:
        """The screen, once it is as it should be."""
        deadline = time.monotonic() + PATIENCE
        while not found(screen := self.screen()):
            assert time.monotonic() < deadline, f"not seen in {PATIENCE} s:\n{screen}"
            time.sleep(0.05)  # tmux has no event for a changed screen
        return screen


@pytest.fixture
def terminal(tmp_path) -> Iterator[Terminal]:
    can_track()
    one = Terminal(tmp_path)
    yield one
    with contextlib.suppress(subprocess.CalledProcessError):
        one("kill-server")


@pytest.fixture
def writer() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that writes to the lower half of 1 MiB, and where that lies."""
    command = [sys.executable, "-c", WRITER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield child, int(child.stdout.readline(), 16)
        child.kill()


@NEEDS_TMUX
class TestOnATerminal:
    def test_shows_what_a_process_writes(self, terminal, writer):
        child, start = writer
        terminal.start("top", "-p", str(child.pid), "-i", "200ms")
        screen = terminal.await_(lambda screen: "NOW/s" in screen and f"anon {start:x}"[:12] in screen)
        assert f"process {child.pid}  {sys.executable} -c" in screen
        terminal.type("/", f"{start:x}", "Enter", "Down")
        screen = terminal.await_(lambda screen: "512 KiB in the last look" in screen)
        line = next(line for line in screen.splitlines() if line.startswith(f"  anon {start:x}"))
        heading = next(line for line in screen.splitlines() if "HEAT BY ADDRESS" in line)
        strip = line[heading.index("HEAT") :].rstrip()
        # The lower half of its 31 cells; the one in the middle is half as hot.
        assert strip == "█" * 15 + "▇"
        terminal.type("q")
        terminal.await_(lambda screen: "code=0=" in screen)
        assert child.poll() is None

    def test_end_of_the_process_is_shown_and_waited_with(self, terminal, writer):
        child, _ = writer
        terminal.start("top", "-p", str(child.pid), "-i", "100ms")
        terminal.await_(lambda screen: "own CPU" in screen)
        child.communicate("")
        terminal.await_(lambda screen: screen.startswith(" ENDED: it has exited process"))
        terminal.type("q")
        terminal.await_(lambda screen: "code=0=" in screen)

    def test_command_has_no_terminal_and_its_code_is_returned(self, terminal, tmp_path):
        log = tmp_path / "log"
        script = "import sys, time; print('OUT', sys.stdin.read() == ''); time.sleep(0.5); sys.exit('ERR')"
        terminal.start("top", "-i", "100ms", "--log", str(log), "--", sys.executable, "-c", script)
        screen = terminal.await_(lambda screen: screen.startswith(" ENDED: it returned 1 "))
        assert "OUT T" not in screen
        assert log.read_text() == "OUT True\nERR\n"
        assert log.stat().st_mode & 0o777 == 0o600
        terminal.type("q")
        terminal.await_(lambda screen: "code=1=" in screen)

    def test_command_killed_by_a_signal(self, terminal):
        script = "import os, time; time.sleep(0.3); os.kill(os.getpid(), 9)"
        terminal.start("top", "-i", "100ms", "--", sys.executable, "-c", script)
        terminal.await_(lambda screen: screen.startswith(" ENDED: it was ended by signal 9 "))
        terminal.type("q")
        terminal.await_(lambda screen: "code=137=" in screen)

    def test_quitting_lets_the_command_go_on(self, terminal):
        terminal.start("top", "--", "sleep", "600")
        terminal.await_(lambda screen: "NOW/s" in screen)
        terminal.type("q")
        screen = terminal.await_(lambda screen: "code=0=" in screen)
        pid = int(screen.partition("to end it: kill ")[2].split()[0])
        assert f"process {pid} goes on" in screen
        os.kill(pid, signal.SIGKILL)

    def test_ctrl_c_interrupts_the_command_and_recording_is_whole(self, terminal, tmp_path):
        path, said = tmp_path / "run.pagescan", tmp_path / "log"
        script = "import time\ntry: time.sleep(600)\nexcept KeyboardInterrupt: print('interrupted', flush=True)"
        command = ("--", sys.executable, "-c", script)
        terminal.start("top", "-i", "100ms", "-o", str(path), "--log", str(said), *command)
        terminal.await_(lambda screen: " REC 3 " in screen or " REC 4 " in screen)
        terminal.type("C-c")
        terminal.await_(lambda screen: "code=130=" in screen)
        with pagescan.Recording.open(path) as recording:
            assert recording.ending is not None
            assert recording.ending.reason == "interrupted"
            assert len(recording) >= 3
        deadline = time.monotonic() + PATIENCE
        while said.read_text() != "interrupted\n":
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def test_20_by_5(self, terminal, writer):
        child, _ = writer
        terminal.start("top", "-p", str(child.pid), width=20, height=5)
        screen = terminal.await_(lambda screen: "NOW/s" in screen and "anon" not in screen.splitlines()[0])
        assert len(screen.splitlines()) == 5
        assert screen.splitlines()[1] == "  MAPPING    NOW/s▼"
        terminal("resize-window", "-x", "80", "-y", "24")
        terminal.await_(lambda screen: "HEAT BY ADDRESS" in screen)
        terminal.type("q")
        terminal.await_(lambda screen: "code=0=" in screen)

    @pytest.mark.parametrize("no_color", ["1", ""])
    def test_no_color(self, terminal, writer, no_color):
        child, _start = writer
        if no_color:
            terminal._environment["NO_COLOR"] = no_color
        terminal.start("top", "-p", str(child.pid), "-i", "100ms")
        terminal.await_(lambda screen: "█" in screen and "own CPU" in screen)
        coloured = any(f"\x1b[{code}m" in terminal.screen("-e") for code in (31, 34, 35, 36))
        assert coloured is not bool(no_color)


@pytest.mark.parametrize(("ends", "term"), [("tt-", "xterm"), ("-tt", "xterm"), ("t-t", "xterm"), ("ttt", "dumb")])
def test_any_stream_that_is_no_terminal(ends, term):
    """In a process of its own, where the streams are what they are."""
    terminal, end = pty.openpty()
    read, write = os.pipe()
    try:
        streams = [end if kind == "t" else write for kind in ends]
        environment = {**os.environ, "TERM": term, "PYTHONPATH": str(Path(pagescan.__file__).parents[1])}
        command = [sys.executable, "-m", "pagescan", "top", "-p", "1"]
        done = subprocess.run(
            command, stdin=streams[0], stdout=streams[1], stderr=streams[2], env=environment, timeout=50
        )
        assert done.returncode == 2
        assert b"the live view needs a terminal" in os.read(terminal if ends[2] == "t" else read, 4096)
    finally:
        for one in (terminal, end, read, write):
            os.close(one)


def test_help_names_the_keys(capsys):
    assert main(["top", "--help"]) == 0
    assert "q quit, space pause, s < > sort" in capsys.readouterr().out
