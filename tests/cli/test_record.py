"""``pagescan record``: what is recorded, how it ends, whose exit code it is, and what it says."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pagescan
from pagescan.cli import record
from pagescan.cli.record import Signals, default_name
from pagescan.errors import KernelCannot, PagescanError

from .conftest import run_confined

COMMAND = [sys.executable, "-m", "pagescan", "record"]


@pytest.fixture(scope="module", autouse=True)
def _tracking_works():
    try:
        with pagescan.spawn(["true"]) as tracker:
            assert tracker.popen
            tracker.popen.wait()
    except PagescanError as error:
        pytest.skip(f"no process can be tracked here: {error.message}")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.pagescan"


def recorded(path):
    """Info, samples and end of a recording."""
    with pagescan.Recording.open(path) as recording:
        return recording.info, list(recording.samples()), recording.ending


def until(condition, seconds=30):
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.01)


def has_samples(path):
    if not path.exists():
        return False
    with contextlib.suppress(PagescanError), pagescan.Recording.open(path) as recording:
        return len(recording) > 0
    return False


def recorder(path, *arguments, **more):
    """The command as a process of its own, once it has written a sample."""
    process = subprocess.Popen(
        [*COMMAND, "-o", str(path), "-i", "20ms", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )
    until(lambda: has_samples(path) or process.poll() is not None)
    return process


class TestProcess:
    def test_duration(self, run, target, path):
        done = run("record", "-p", target.pid, "-o", path, "-i", "20ms", "-d", "60ms")
        assert (done.code, done.out) == (0, "")
        info, samples, ending = recorded(path)
        assert (info.pid, info.interval_ns, ending.reason) == (target.pid, 20_000_000, "duration")
        assert 1 <= len(samples) <= 3
        assert samples[0].pause_ns > 0
        assert (target.start, target.end) in {(mapping.start, mapping.end) for mapping in samples[0].mappings}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        lines = done.err.splitlines()
        assert re.fullmatch(r"pagescan: \d samples? in \S+ ms; the time was over", lines[0])
        assert [line.split()[0] for line in lines[1:5]] == ["process", "written", "file", "overhead"]
        assert lines[-1] == f"look      pagescan report {path}"
        assert re.search(r"recorder: \d+\.\d% of one processor", done.err)

    def test_json(self, run, target, path):
        document = run("record", "-p", target.pid, "-o", path, "-i", "20ms", "-d", "60ms", "--json").json()
        info, samples, _ = recorded(path)
        overhead = document.pop("overhead")
        durations = [sample.duration_ns for sample in samples]
        assert overhead["mean_take_ns"] == sum(durations) // len(durations)
        assert overhead["longest_take_ns"] == max(durations)
        assert overhead["pause_ns"] == sum(sample.pause_ns for sample in samples)
        assert overhead["cpu_share"] == pytest.approx(overhead["cpu_ns"] / document["elapsed_ns"], abs=1e-6)
        missed = document.pop("missed_intervals")
        assert missed + len(samples) <= 3
        assert document == {
            "schema": "pagescan.record",
            "version": 1,
            "pagescan": pagescan.__version__,
            "file": str(path),
            "file_bytes": path.stat().st_size,
            "pid": target.pid,
            "command_line": list(info.command_line),
            "command_status": None,
            "engine": "pagemap-scan",
            "page_size": target.size,
            "interval_ns": 20_000_000,
            "elapsed_ns": samples[-1].time_ns - info.started_ns,
            "ended": "duration",
            "samples": len(samples),
            "inexact_samples": 0,
            "written_pages": sum(sample.regions.page_count for sample in samples),
            "written_regions": sum(len(sample.regions) for sample in samples),
            "untracked": [],
        }

    def test_another_engine_is_said(self, run, target, path, monkeypatch):
        monkeypatch.setenv("PAGESCAN_ENGINE", "compare")
        done = run("record", "-p", target.pid, "-o", path, "-i", "20ms", "-d", "60ms", "--mappings", "[heap]")
        assert done.code == 0
        assert done.err.startswith("pagescan: tracked by the engine compare, at a price: forced by name; ")
        assert recorded(path)[0].engine == "compare"

    def test_only_some_mappings(self, run, target, path):
        run("record", "-p", target.pid, "-o", path, "-i", "20ms", "-d", "40ms", "--mappings", "[nothing]")
        _, samples, _ = recorded(path)
        assert {sample.regions.page_count for sample in samples} == {0}
        done = run("record", "-p", target.pid, "-o", path, "--force", "-d", "20ms", "--mappings", "[nothing]")
        assert "no mapping of the process is tracked so far" in done.err

    def test_nothing_is_overwritten_unasked(self, run, target, path):
        path.write_text("mine")
        done = run("record", "-p", target.pid, "-o", path, "-d", "20ms")
        assert (done.code, done.out) == (1, "")
        assert done.err == (f"pagescan: {path} exists\nhint: use another file (-o FILE), or overwrite it: --force\n")
        assert path.read_text() == "mine"
        assert run("record", "-p", target.pid, "-o", path, "-d", "20ms", "-i", "10ms", "--force").code == 0
        assert recorded(path)[2].reason == "duration"

    def test_default_name(self, run, target, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        run("record", "-p", target.pid, "-d", "20ms", "-i", "10ms")
        [file] = tmp_path.iterdir()
        assert re.fullmatch(rf"pagescan-{target.pid}-\d{{8}}-\d{{6}}\.pagescan", file.name)
        monkeypatch.setattr(time, "strftime", lambda form: form)
        assert default_name(7) == "pagescan-7-%Y%m%d-%H%M%S.pagescan"

    def test_process_that_shares_itself(self, run, tmp_path, path):
        code = "import pagescan, sys\nwith pagescan.share(sys.argv[1]): print('up', flush=True); sys.stdin.read()"
        where = str(tmp_path / "socket")
        command = [sys.executable, "-c", code, where]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout
            assert child.stdout.readline() == b"up\n"
            done = run("record", "--socket", where, "-o", path, "-i", "20ms", "-d", "40ms", "--json")
            child.communicate()
        assert done.code == 0
        assert done.json()["pid"] == child.pid
        assert done.json()["overhead"]["pause_ns"] == 0

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_signal_ends_with_a_complete_file(self, target, path, number):
        process = recorder(path, "-p", target.pid)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "; stopped by a signal\n" in err
        assert recorded(path)[2].reason == "interrupted"
        assert not path.with_name(path.name + "-wal").exists()

    def test_interrupt_in_the_background_of_a_script(self, target, path):
        process = recorder(path, "-p", target.pid, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert (process.returncode, recorded(path)[2].reason) == (0, "interrupted")

    def test_nohup(self, target, path):
        process = recorder(path, "-p", target.pid, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        process.send_signal(signal.SIGHUP)
        count = len(recorded(path)[1])
        until(lambda: len(recorded(path)[1]) > count + 2)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0

    def test_exit_of_the_process_ends_it(self, path):
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
            process = recorder(path, "-p", child.pid)
            child.communicate()
            _, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "; the process ended\n" in err
        _, samples, ending = recorded(path)
        assert (ending.reason, str(samples[-1].quality)) == ("exited", "lost")

    def test_killed_recorder_leaves_a_valid_file_and_the_process(self, target, path):
        process = recorder(path, "-p", target.pid)
        process.kill()
        process.communicate()
        info, samples, ending = recorded(path)
        assert (info.pid, ending) == (target.pid, None)
        assert samples
        assert pagescan.Process(target.pid).alive()


@pytest.fixture
def open_folder():
    """A folder in which any user may make files."""
    with tempfile.TemporaryDirectory(prefix="pagescan-", dir="/tmp") as name:
        os.chmod(name, 0o777)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="this already is an ordinary user: every other test shows it")
class TestOrdinaryUser:
    """User 65534, without any capability."""

    @staticmethod
    def become_nobody():
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: as after an exec, which cannot be had here
        os.chdir("/")

    def check(self, done, path, reason):
        assert done.code == 0, done.err
        assert recorded(path)[2].reason == reason
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (65534, 0o600)
        with pagescan.Recording.open(path) as recording:
            assert sum(sample.regions.page_count for sample in recording) > 0

    def test_own_process(self, open_folder):
        path = open_folder / "file"
        busy = ["sh", "-c", "while :; do i=$((i + 1)); done"]
        with subprocess.Popen(busy, user=65534, group=65534, extra_groups=[], cwd="/") as process:
            arguments = ("record", "-p", str(process.pid), "-i", "20ms", "-d", "100ms", "-o", str(path), "--force")
            try:
                done = run_confined(self.become_nobody, *arguments)
                assert process.poll() is None
            finally:
                process.kill()
        self.check(done, path, "duration")

    def test_command(self, open_folder, monkeypatch):
        if not os.path.exists("/usr/bin/python3"):
            pytest.skip("no /usr/bin/python3 that an ordinary user could start")
        monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
        path = open_folder / "file"
        command = ["sh", "-c", "i=0; while [ $i -lt 9999 ]; do i=$((i + 1)); done; sleep 0.2"]
        done = run_confined(self.become_nobody, "record", "-i", "5ms", "-o", str(path), "--force", "--", *command)
        self.check(done, path, "exited")


class TestCommand:
    @pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
    def test_its_status_is_ours(self, path, script, code):
        done = subprocess.run([*COMMAND, "-o", path, "--", "sh", "-c", script], capture_output=True, timeout=60)
        assert (done.returncode, done.stdout) == (code, b"")
        info, samples, ending = recorded(path)
        assert info.command_line == ("sh", "-c", script)
        assert (ending.reason, str(samples[-1].quality)) == ("exited", "lost")

    def test_streams_pass_through(self, path):
        script = ["sh", "-c", "cat; echo words >&2"]
        done = subprocess.run(
            [*COMMAND, "-o", path, "--", *script], input="data\n", capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (0, "data\n")
        assert done.stderr.startswith("words\n")
        assert "process held still: never" in done.stderr

    def test_options_after_the_dashes_are_its_own(self, path):
        done = subprocess.run(
            [*COMMAND, "-o", path, "--", "echo", "-p", "--json", "--", "x"], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (0, "-p --json -- x\n")

    def test_json_has_its_status(self, path):
        done = subprocess.run([*COMMAND, "-o", path, "--json", "--", "sh", "-c", "exit 3"], capture_output=True)
        assert done.returncode == 3
        assert json.loads(done.stdout)["command_status"] == 3

    def test_program_it_executes_is_followed(self, path):
        code = "a = bytearray(1 << 20); input()"
        process = recorder(path, "--", "sh", "-c", f"exec {sys.executable} -c '{code}'", stdin=subprocess.PIPE)
        until(lambda: any(m.name.endswith("stack]") for s in recorded(path)[1] for m in s.mappings))
        until(lambda: "python" in recorded(path)[1][-1].mappings[0].name)
        process.communicate("\n", timeout=30)
        assert process.returncode == 0
        _, samples, ending = recorded(path)
        assert ending.reason == "exited"
        assert sum(sample.regions.page_count for sample in samples) > 256

    def test_time_is_over_before_it_ends(self, path):
        process = recorder(path, "-d", "40ms", "--", "cat", stdin=subprocess.PIPE)
        until(lambda: recorded(path)[2] is not None)
        assert process.poll() is None
        _, err = process.communicate("", timeout=30)
        assert process.returncode == 0
        assert err.startswith("pagescan: the recording is complete; cat goes on, and is waited for\n")

    def test_there_is_no_such_program(self, run, path):
        done = run("record", "-o", path, "--", "no-such-program")
        assert (done.code, done.out) == (2, "")
        assert "there is no program 'no-such-program'" in done.err
        assert not path.exists()

    def test_failing_recording_lets_it_finish(self, path):
        code = (
            "import sys; from pagescan.cli import main; from pagescan.recording import RecordingWriter as W\n"
            "from pagescan.errors import PagescanError\n"
            "def full(*_, **__): raise PagescanError('no space is left', hint='df -h')\n"
            "W.append = full\n"
            "sys.exit(main(sys.argv[1:]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "record", "-o", path, "-i", "10ms", "--", "cat"],
            input="data\n", capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (1, "data\n")
        assert done.stderr.startswith("pagescan: the recording stopped: no space is left\nhint: df -h\n")
        assert "Traceback" not in done.stderr


#: Says when it is ready; counts SIGINT and SIGTERM, and ends a moment after the first.
COUNTER = """
import signal, sys, time
got = []
def note(number, frame): got.append(signal.Signals(number).name)
for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, note)
print("ready", flush=True)
while not got: signal.pause()
end = time.monotonic() + 0.2
while time.monotonic() < end: time.sleep(0.05)
print(*got, flush=True)
sys.exit(5)
"""
STUBBORN = (
    "import signal, time\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\nprint('ready', flush=True)\ninput()"
)


class Ignored:
    """A command that ignores every signal, and gets some while it is waited for; and a watch that nothing ends."""

    def __init__(self, while_waiting=0):
        self.got = []
        self.while_waiting = while_waiting

    def send_signal(self, number):
        self.got.append(number)

    def wait(self):
        for _ in range(self.while_waiting):
            signal.raise_signal(signal.SIGTERM)
        return 0

    def stop(self):
        pass


class TestSignalsToACommand:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_is_passed_on(self, path, number):
        arguments = ["--", sys.executable, "-c", COUNTER]
        process = recorder(path, *arguments, start_new_session=True)
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
        assert (process.returncode, out) == (5, f"{number.name}\n")
        assert recorded(path)[2].reason == "exited"

    def test_second_one_ends_the_recording_and_third_one_the_waiting(self, path):
        process = recorder(path, "--", sys.executable, "-c", STUBBORN, stdin=subprocess.PIPE, start_new_session=True)
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)  # so that the two are not merged into one
        process.send_signal(signal.SIGTERM)
        until(lambda: recorded(path)[2] is not None)
        assert recorded(path)[2].reason == "interrupted"
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)  # it may be letting go of the file, or wait already
        process.communicate(timeout=30)
        assert process.returncode == 130

    def test_third_one_may_come_before_the_waiting(self):
        command: Any = Ignored()
        with Signals(command, command) as signals:
            for _ in range(3):
                signal.raise_signal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                signals.wait_for_command()
            signal.raise_signal(signal.SIGTERM)  # a fourth one disturbs nothing

    def test_third_one_ends_the_waiting(self):
        command: Any = Ignored(while_waiting=3)
        with Signals(command, command) as signals:
            with pytest.raises(KeyboardInterrupt):
                signals.wait_for_command()
            assert command.got == [signal.SIGTERM] * 3

    def test_ctrl_c_on_a_terminal_arrives_once(self, path):
        with terminal([*COMMAND, "-o", str(path), "-i", "20ms", "--", sys.executable, "-c", COUNTER]) as screen:
            screen.read_until("ready")
            screen.type("\x03")
            code = screen.wait()
        assert code == 5
        # The terminal may echo ^C before it.
        assert re.findall(r"SIGINT.*", screen.text) == ["SIGINT\r"], screen.text
        assert recorded(path)[2].reason == "exited"


class Screen:
    """A process on a terminal of its own."""

    def __init__(self, pid, descriptor):
        self.pid, self.descriptor, self.text = pid, descriptor, ""

    def read_until(self, word):
        while word not in self.text:
            assert self._read(), self.text

    def _read(self) -> bool:
        try:
            data = os.read(self.descriptor, 4096)
        except OSError:  # EIO: everybody has closed the other side
            return False
        self.text += data.decode()
        return bool(data)

    def type(self, keys):
        os.write(self.descriptor, keys.encode())

    def wait(self) -> int:
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextlib.contextmanager
def terminal(command) -> Iterator[Screen]:
    pid, descriptor = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    try:
        yield Screen(pid, descriptor)
    finally:
        os.close(descriptor)


class TestProgress:
    def test_on_a_terminal(self, target, path):
        with terminal([*COMMAND, "-p", str(target.pid), "-o", str(path), "-i", "20ms"]) as screen:
            screen.read_until("written  ")
            screen.type("\x03")
            assert screen.wait() == 0
        assert re.search(r"\r\S+ m?s  \d+ samples?  [\d,]+ pages? written  \S+ \S+/s", screen.text)
        # The line is wiped before the summary.
        assert re.search(r"\r +\rpagescan: \d+ samples? in", screen.text), screen.text

    def test_none_in_a_pipe(self, run, target, path):
        assert "\r" not in run("record", "-p", target.pid, "-o", path, "-i", "20ms", "-d", "300ms").err


class TestRefusal:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "name one process to record: -p PID, --socket PATH, --model, or a command after --"),
            (["-p", "1", "--", "true"], "name one process to record"),
            (["-p", "1", "--socket", "x"], "name one process to record"),
            (["-p", "1", "--model"], "name one process to record"),
            (["-p", "abc"], "'abc' is no whole number above 0"),
            (["-p", "1", "-i", "soon"], "'soon' is no duration"),
            (["-p", "1", "-i", "999us"], "the shortest interval is 1ms"),
            (["-p", "1", "-d", "0"], "a recording of no duration has nothing"),
            (["-p", "1", "-o", "/no/such/folder/file"], "there is no folder /no/such/folder"),
        ],
    )
    def test_usage(self, run, arguments, said):
        done = run("record", *arguments)
        assert (done.code, done.out) == (2, "")
        assert said in done.err
        assert "\nhint: " in done.err

    def test_no_such_process(self, run, tmp_path):
        done = run("record", "-p", 4194304, "-o", tmp_path / "r")
        assert (done.code, list(tmp_path.iterdir())) == (3, [])
        assert "4194304" in done.err

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    def test_other_users_process(self, target, tmp_path, monkeypatch):
        def become_nobody():
            os.setuid(65534)
            os.chdir("/tmp")

        monkeypatch.chdir(tmp_path)
        done = run_confined(become_nobody, "record", "-p", str(target.pid), "-i", "10ms", "-d", "20ms")
        assert (done.code, done.out) == (4, "")
        assert "belongs to user 0" in done.err
        assert "sudo" in done.err.splitlines()[-1]

    def test_kernel_that_cannot(self, run, monkeypatch, tmp_path):
        def refuse(options):
            raise KernelCannot("this kernel has no userfaultfd", hint="run a later kernel")

        monkeypatch.setattr(record, "_begin", refuse)
        done = run("record", "-p", os.getpid(), "-o", tmp_path / "r")
        assert (done.code, list(tmp_path.iterdir())) == (5, [])
        assert done.err == "pagescan: this kernel has no userfaultfd\nhint: run a later kernel\n"

    def test_itself(self, run, tmp_path):
        assert run("record", "-p", os.getpid(), "-o", tmp_path / "r").code == 2

    def test_failing_start_kills_the_command(self, run, path, monkeypatch):
        from pagescan.recording import session

        started = []

        def full(*arguments, **more):
            started.append(arguments[0].popen)
            raise PagescanError("no space is left")

        monkeypatch.setattr(session, "Session", full)
        assert run("record", "-o", path, "--", "sleep", "60").code == 1
        assert started[0].returncode == -signal.SIGKILL


def test_the_workload_of_the_model_in_no_time(run, tmp_path):
    """40 intervals of an hour each, and the last, in which it exits."""
    done = run("record", "--model", "--json", "-i", "1h", "-o", str(tmp_path / "r"))
    assert (done.code, done.err) == (0, "")
    document = done.json()
    assert (document["samples"], document["ended"], document["elapsed_ns"]) == (41, "exited", 41 * 3600 * 10**9)
    assert document["written_pages"] == 4712
    assert document["overhead"]["pause_ns"] == 0
    half = run("record", "--model", "--json", "-d", "2s", "--mappings", "[heap]", "-o", str(tmp_path / "h")).json()
    assert (half["samples"], half["ended"], half["written_pages"]) == (20, "duration", 80)
