"""Starting a program that stands before its first instruction, its userfaultfd taken."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time

import pytest

if sys.platform != "linux":
    pytest.skip("spawning needs Linux", allow_module_level=True)

from pagescan.abi import TRACKING_FEATURES
from pagescan.errors import AccessDenied, Closed, InvalidArgument, KernelCannot, PagescanError
from pagescan.kernel import registers
from pagescan.process.spawn import find_program, spawn_stopped

from . import killing, targets

TELL = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ.get('MARK'), sorted(os.listdir('/proc/self/fd')))"


@pytest.fixture(scope="module", autouse=True)
def spawnable() -> None:
    """Skip, with the kernel's reason, where no program can be spawned."""
    if registers.current_layout() is None:
        pytest.skip("pagescan knows no registers of this machine")
    try:
        spawned = spawn_stopped(["true"])
    except PagescanError as error:
        pytest.skip(f"spawning is refused here: {error.message}")
    spawned.kill()


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_it_stands_before_its_first_instruction():
    with spawn_stopped([sys.executable, "-c", "print('began')"], stdout=subprocess.PIPE) as spawned:
        assert state(spawned.pid) == "t"
        assert os.readlink(f"/proc/{spawned.pid}/exe") == os.path.realpath(sys.executable)
        names = {mapping.name for mapping in spawned.space.mappings()}
        assert not any("libc" in name for name in names), "the loader has not run yet"
        assert {"[stack]"} <= names
        assert not spawned.started
        spawned.start()
        spawned.start()
        assert spawned.started
        assert spawned.popen.communicate(timeout=20) == (b"began\n", None)
    assert spawned.popen.returncode == 0
    spawned.space.close()


def test_every_write_of_its_life_can_be_tracked(tracking):
    """Registered before the first instruction: what the loader writes is seen."""
    with spawn_stopped([*targets.python("print('ready', flush=True); input()")], stdin=-1, stdout=-1) as spawned:
        stack = next(m for m in spawned.space.mappings() if m.name == "[stack]")
        with spawned.space.open_userfaultfd(TRACKING_FEATURES) as userfaultfd:
            assert userfaultfd.fileno() == spawned.adopted.fd
            userfaultfd.register(stack.start, stack.size)
            userfaultfd.writeprotect(stack.start, stack.size)
            pagemap = spawned.space.open_pagemap()
            assert written(pagemap, stack) == 0
            spawned.start()
            assert spawned.popen.stdout is not None
            assert spawned.popen.stdout.readline() == b"ready\n"
            assert written(pagemap, stack) > 0
            pagemap.close()
        spawned.popen.communicate(b"\n", timeout=20)
    assert spawned.popen.returncode == 0
    spawned.space.close()


def written(pagemap, mapping) -> int:
    from .test_attach import written as pages

    return len(pages(pagemap, mapping.start, mapping.size // os.sysconf("SC_PAGE_SIZE")))


def test_arguments_environment_folder_and_streams_are_passed_on(tmp_path):
    spawned = spawn_stopped(
        [sys.executable, "-c", TELL, "a b", "\udcff"],
        env={"MARK": "grün\udcfe", "PYTHONIOENCODING": "utf-8:surrogateescape", "PYTHONUTF8": "1"},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    spawned.start()
    said, _ = spawned.popen.communicate(timeout=20)
    # The fourth descriptor is the listing's own.
    expected = f"{['a b', chr(0xDCFF)]} {os.path.realpath(tmp_path)} grün\udcfe {['0', '1', '2', '3']}\n"
    assert said.decode("utf-8", "surrogateescape") == expected
    spawned.space.close()


def test_signals_are_as_they_were():
    program = "grep -E 'Sig(Blk|Ign)' /proc/self/status"
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        plain = subprocess.run(["sh", "-c", program], capture_output=True, check=True, timeout=20).stdout
        spawned = spawn_stopped(["sh", "-c", program], stdout=subprocess.PIPE)
        spawned.start()
        assert spawned.popen.communicate(timeout=20)[0] == plain
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
    spawned.space.close()


def test_registers_of_its_start_are_right():
    with spawn_stopped([targets.build(targets.SPIN, "-static"), "2"], stdout=subprocess.PIPE) as spawned:
        spawned.start()
        assert spawned.popen.stdout is not None
        assert spawned.popen.stdout.readline() == b"ready\n"
        spawned.popen.terminate()
        assert spawned.popen.communicate(timeout=20)[0] == b"right\n"
    spawned.space.close()


def test_its_status_is_its_own():
    spawned = spawn_stopped(["sh", "-c", "exit 7"])
    spawned.start()
    assert spawned.popen.wait(20) == 7
    spawned.space.close()


def test_an_exception_before_its_start_kills_it():
    with pytest.raises(ZeroDivisionError), spawn_stopped(["sleep", "1000"]) as spawned:
        1 / 0  # noqa: B018
    assert spawned.popen.returncode == -signal.SIGKILL
    with pytest.raises(Closed):
        spawned.start()


def test_kill_after_its_start():
    spawned = spawn_stopped(["sleep", "1000"])
    spawned.start()
    spawned.kill()
    assert spawned.popen.returncode == -signal.SIGKILL


def test_the_death_of_the_tracker_before_its_start_ends_it(tmp_path):
    note = tmp_path / "pid"

    def work() -> None:
        spawned = spawn_stopped(["sleep", "1000"])
        note.write_text(str(spawned.pid))
        os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(killing.in_fork(work)) == signal.SIGKILL
    pid = int(note.read_text())
    # It is somebody else's child now, and a zombie until that one takes note.
    deadline = time.monotonic() + 10
    while sleeps(pid) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not sleeps(pid)


def sleeps(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            _, _, name_on = file.read().partition("(")
    except OSError:
        return False
    return name_on.startswith("sleep)") and name_on.split()[1] not in "ZX"


@pytest.mark.parametrize(
    ("argv", "number"), [([], None), (["no-such-program-anywhere"], errno.ENOENT), (["/no/such"], errno.ENOENT)]
)
def test_a_program_that_is_not_there(argv, number):
    with pytest.raises(InvalidArgument) as caught:
        spawn_stopped(argv)
    assert caught.value.errno == number


def test_a_file_that_cannot_be_executed(tmp_path):
    file = tmp_path / "data"
    file.write_text("no program")
    with pytest.raises(InvalidArgument, match="Permission denied") as caught:
        spawn_stopped([file])
    assert caught.value.hint == f"chmod +x {file}"
    file.chmod(0o755)
    with pytest.raises(InvalidArgument, match="Exec format error"):
        spawn_stopped([file])


def test_a_folder_that_is_not_there():
    with pytest.raises(InvalidArgument, match="no folder"):
        spawn_stopped(["true"], cwd="/no/such")


def test_a_script_with_an_interpreter(tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho $1\n")
    script.chmod(0o755)
    spawned = spawn_stopped(["./script", "x"], cwd=tmp_path, stdout=subprocess.PIPE)
    spawned.start()
    assert spawned.popen.communicate(timeout=20)[0] == b"x\n"
    spawned.space.close()


def test_a_setuid_program_of_an_ordinary_user_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "program"
    file.write_text("")
    file.chmod(0o4755)
    monkeypatch.setattr("pagescan.process.spawn.os.geteuid", lambda: 1000)
    with pytest.raises(AccessDenied, match="setuid"):
        find_program(str(file), {}, None)


def test_a_32_bit_program_is_refused():
    program = targets.build(targets.NARROW, "-m32", "-static", "-nostdlib", "-fno-pie", "-no-pie")
    with pytest.raises((KernelCannot, InvalidArgument), match=r"32-bit|Exec format"):
        spawn_stopped([program])


def children() -> set[str]:
    """The children of this process, zombies too. Earlier tests may have left some: multiprocessing's tracker, say."""
    found: set[str] = set()
    for thread in os.listdir("/proc/self/task"):  # one of an earlier test may just be ending
        with contextlib.suppress(FileNotFoundError), open(f"/proc/self/task/{thread}/children") as file:
            found.update(file.read().split())
    return found


def test_nothing_is_left_behind():
    descriptors, before = len(os.listdir("/proc/self/fd")), children()
    for argv in (["/no/such"], ["/etc/passwd"], ["true"]):
        try:
            spawn_stopped(argv).kill()
        except InvalidArgument:
            assert argv != ["true"]
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert children() == before


def test_an_ordinary_user_spawns():
    if os.geteuid() != 0:
        pytest.skip("this already is an ordinary user: every other test shows it")

    def work() -> None:
        sys.executable = "/usr/bin/python3"
        with spawn_stopped(["sh", "-c", "exit 5"], cwd="/") as spawned:
            spawned.start()
            assert spawned.popen.wait(20) == 5

    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("no /usr/bin/python3 that an ordinary user could start")
    assert killing.as_nobody(work) == 0
