"""Taking a userfaultfd from a live process: nothing of the target changes, and every refusal names its cure."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("attaching needs Linux", allow_module_level=True)

from pagescan.abi import (
    PM_SCAN_CHECK_WPASYNC,
    PM_SCAN_WP_MATCHING,
    REGION_DTYPE,
    TRACKING_FEATURES,
    pack_scan_argument,
)
from pagescan.errors import AccessDenied, Closed, InvalidArgument, KernelCannot, NoSuchProcess, PagescanError
from pagescan.kernel import ptrace, registers, remote
from pagescan.kernel.pagemap import Pagemap
from pagescan.kernel.permissions import CAP_SYS_ADMIN, has_capability
from pagescan.kernel.procfs import read_status
from pagescan.kernel.space import LinuxSpace
from pagescan.process import attach as module
from pagescan.process import permission
from pagescan.process.attach import Adopted, TracedSpace, take_userfaultfd
from pagescan.process.process import Process
from pagescan.query import Category
from tests.guards import guards_told as guards_told

from . import killing, targets
from .targets import build, python, running, verdict

LAYOUT: Any = registers.current_layout()
ON_X86 = LAYOUT is not None and LAYOUT.name == "x86_64"
SLEEPER = python("print('ready', flush=True); input()")


@pytest.fixture(scope="session", autouse=True)
def attachable() -> None:
    """Skip, with the kernel's reason, where not even an own child can be attached to."""
    if LAYOUT is None:
        pytest.skip("pagescan knows no registers of this machine")
    with running(*SLEEPER) as process:
        try:
            take_userfaultfd(process.pid).close()
        except PagescanError as error:
            pytest.skip(f"attaching is refused here: {error.message}")


@pytest.fixture
def sleeper() -> Iterator[int]:
    with running(*SLEEPER) as process:
        yield process.pid


def descriptors(pid: int) -> list[str]:
    found = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in sorted(os.listdir(f"/proc/{pid}/fd"), key=int)]
    return [re.sub(r"\d+", "N", one) for one in found]


def take(pid: int, **how: object) -> Adopted:
    adopted = take_userfaultfd(pid, **how)  # type: ignore[arg-type]
    adopted.close()
    return adopted


# --- the target notices nothing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [True, False], ids=["frame", "plain"])
@pytest.mark.parametrize("options", [(), ("-static",)], ids=["dynamic", "static"])
def test_registers_and_vectors_of_a_running_program_are_kept(frame, options):
    with running(build(targets.SPIN, *options)) as process:
        before = descriptors(process.pid)
        taken = [take(process.pid, frame=frame) for _ in range(20)]
        assert descriptors(process.pid) == before
        assert verdict(process) == "right"
    if ON_X86:
        assert {one.survives for one in taken} == {frame}
    assert all(0 < one.held_ns <= one.pause_ns for one in taken)


def test_every_thread_of_a_program_can_be_the_one():
    with running(build(targets.SPIN), "4") as process:
        threads = [int(tid) for tid in os.listdir(f"/proc/{process.pid}/task")]
        assert len(threads) == 4
        for tid in threads * 3:
            adopted = take(process.pid, tid=tid)
            assert (adopted.tid, adopted.survives) == (tid, ON_X86)
        assert verdict(process) == "right"


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_stack_guarded_within_its_mapping_is_one(count, guards_told):
    """As glibc makes them from 2.42 on; two of them lie in one mapping."""
    with running(build(targets.GUARDED), "threads", count) as process:
        for tid in others(process.pid) * 3:
            adopted = take(process.pid, tid=tid)
            assert (adopted.survives, ON_X86 and adopted.lacks) == (ON_X86, ON_X86 and "")
        assert verdict(process) == "right"


@pytest.mark.parametrize("below", ["guard", "none"])
def test_memory_below_another_stack_in_its_mapping_is_not_written_over(below, guards_told):
    """A coroutine runs there; whether at the end of its memory is a guard region, or a mapping without permissions."""
    with running(build(targets.GUARDED), "coroutine", below) as process:
        for tid in others(process.pid) * 3:
            adopted = take(process.pid, tid=tid)
            assert not adopted.survives
            assert not ON_X86 or "may not be a stack" in adopted.lacks
        assert verdict(process) == "right"


def others(pid: int) -> list[int]:
    """The threads but for the first."""
    return [int(tid) for tid in os.listdir(f"/proc/{pid}/task") if int(tid) != pid]


@pytest.mark.parametrize("known", [None, Category.PRESENT], ids=["not looked at", "unknown"])
def test_where_guards_cannot_be_found_out_the_target_is_attached_to_all_the_same(known, monkeypatch):
    def refuse(*_: object) -> None:
        raise AccessDenied("fake")

    if known is None:
        monkeypatch.setattr(Pagemap, "open", refuse)
    else:
        monkeypatch.setattr(Pagemap, "known", known)
    with running(build(targets.GUARDED), "threads", "1") as process:
        (tid,) = others(process.pid)
        adopted = take(process.pid, tid=tid)
        assert not adopted.survives
        assert not ON_X86 or "Linux 6.16 does" in adopted.lacks
        assert verdict(process) == "right"


def test_guards_are_not_looked_for_where_they_would_prove_nothing(sleeper, monkeypatch):
    monkeypatch.setattr(module, "find_guards", lambda *_: pytest.fail("for the first thread"))
    assert take(sleeper).survives is ON_X86


#: What each call returns, its errno, and whether its timeout is relative and starts anew (signal(7): never restarted).
BLOCKING = {
    "nanosleep": (0, 0, False),
    "clock_nanosleep": (0, 0, False),
    "syscall": (0, 0, False),
    "poll": (0, 0, False),
    "ppoll": (0, 0, False),
    "select": (0, 0, False),
    "futex": (-1, errno.ETIMEDOUT, False),
    "condwait": (errno.ETIMEDOUT, 0, False),
    "read": (1, 0, False),
    "wait4": (1, 0, False),
    "pause": (-1, errno.EINTR, False),
    "sigsuspend": (-1, errno.EINTR, False),
    "msgrcv": (1, 0, False),
    "inotify": (1, 0, False),
    "timerfd": (8, 0, False),
    "eventfd": (8, 0, False),
    "epoll_wait": (0, 0, True),
    "epoll_pwait": (0, 0, True),
    "recv": (-1, errno.EAGAIN, True),
    "sigtimedwait": (-1, errno.EAGAIN, True),
    "semtimedop": (-1, errno.EAGAIN, True),
}
SPAN = 700  # milliseconds, as in targets.BLOCK


@pytest.fixture(scope="module", params=[True, False], ids=["frame", "plain"])
def blocked(request: pytest.FixtureRequest) -> dict[str, tuple[int, int, float]]:
    """Result, errno and milliseconds of each blocking call, of programs that were attached to thrice meanwhile.

    (On a loaded machine some have ended before the second or third time.)
    """
    program = build(targets.BLOCK)
    with contextlib.ExitStack() as stack:
        started = {}
        for name in BLOCKING:
            process = started[name] = stack.enter_context(running(program, name))
            targets.wait_until_blocked(process.pid)
            take(process.pid, frame=request.param)
        for process in 2 * list(started.values()):
            targets.wait_for_state(process.pid, "SDZ")
            with contextlib.suppress(NoSuchProcess):
                take(process.pid, frame=request.param)
        said = {name: process.communicate(timeout=20)[0].split() for name, process in started.items()}
    return {name: (int(result), int(number), float(took)) for name, (result, number, took) in said.items()}


@pytest.mark.parametrize("name", BLOCKING)
def test_a_blocking_call_returns_what_it_would_have(name, blocked):
    result, number, anew = BLOCKING[name]
    if anew and not ON_X86:
        pytest.skip("only on x86-64 can a call that ends with EINTR be repaired")
    assert blocked[name][:2] == (result, number)


@pytest.mark.parametrize("name", BLOCKING)
def test_a_blocking_call_takes_as_long_as_it_would_have(name, blocked):
    _, _, anew = BLOCKING[name]
    assert SPAN - 2 <= blocked[name][2] <= SPAN * (2.5 if anew else 1.7)  # a loaded machine is late, never early


def test_a_signal_that_comes_meanwhile_keeps_its_value():
    count = 300
    with running(build(targets.SIGNALS)) as process:
        done = threading.Event()

        def send() -> None:
            for value in range(count):
                queue_signal(process.pid, value)
            done.set()

        sender = threading.Thread(target=send)
        sender.start()
        attached = 0
        while not done.is_set() or attached < 10:
            take(process.pid)
            attached += 1
        sender.join()
        assert verdict(process) == f"{count} {sum(range(count))}"


def queue_signal(pid: int, value: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    while libc.sigqueue(pid, signal.SIGRTMIN, ctypes.c_void_p(value)):
        assert ctypes.get_errno() == errno.EAGAIN, "the queue may be full for a moment, nothing else"


def test_a_restartable_sequence_is_aborted_not_run_on():
    with running(build(targets.RSEQ)) as process:
        for _ in range(20):
            take(process.pid)
        assert verdict(process) == "aborted"


def test_a_signal_handler_on_a_small_stack_is_not_written_over():
    with running(build(targets.ALTSTACK)) as process:
        adopted = take(process.pid)
        assert not adopted.survives
        assert "may not be a stack" in adopted.lacks
        assert verdict(process) == "right"


def test_a_stopped_program_stays_stopped():
    with running(build(targets.SPIN)) as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        take(process.pid)
        targets.wait_for_state(process.pid, "T")  # let go of, it stops by itself
        os.kill(process.pid, signal.SIGCONT)
        assert verdict(process) == "right"


def test_only_bytes_below_the_stack_pointer_change(sleeper):
    targets.wait_until_blocked(sleeper)
    before, used = stack_bytes(sleeper), stack_used(sleeper)
    take(sleeper)
    targets.wait_until_blocked(sleeper)
    assert stack_used(sleeper) == used
    assert stack_bytes(sleeper)[-used:] == before[-used:]


def stack_bytes(pid: int) -> bytes:
    stack = next(m for m in LinuxSpace(pid).mappings() if m.name == "[stack]")
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(stack.start)
        return memory.read(stack.size)


def stack_used(pid: int) -> int:
    """Bytes from the lowest that a blocked thread relies on to the end of its stack (x86-64: 128 below the pointer)."""
    stack = next(m for m in LinuxSpace(pid).mappings() if m.name == "[stack]")
    with open(f"/proc/{pid}/syscall") as file:
        return stack.end - (int(file.read().split()[-2], 16) - 128)


@pytest.mark.skipif(os.cpu_count() == 1, reason="one processor, which the busy thread and the target share")
def test_ones_own_busy_threads_do_not_make_it_long(sleeper):
    """The interpreter lock is kept while the target stands still: lost to a busy thread it would be gone for 5 ms."""
    over = threading.Event()
    busy = threading.Thread(target=lambda: [None for _ in iter(over.is_set, True)])
    busy.start()
    try:
        held = sorted(take(sleeper).held_ns for _ in range(21))
    finally:
        over.set()
        busy.join()
    assert held[0] < 5_000_000


# --- the death of the tracker ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not ON_X86, reason="the form that survives the tracker's death is for x86-64")
class TestDeathOfTheTracker:
    @pytest.mark.parametrize("which", [0, -1], ids=["first thread", "another"])
    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    def test_at_each_single_request(self, after, which):
        """The tracker kills itself before, or after, its first, second, third ... request."""
        with running(build(targets.SPIN), "2") as process:
            tid = [process.pid, *others(process.pid)][which]
            points = 0
            while killing.attach_and_die(process.pid, points, tid=tid, after=after):
                points += 1
                assert process.poll() is None, f"the target died at request {points}"
            assert points > 12
            take(process.pid, tid=tid)
            assert verdict(process) == "right"

    @pytest.mark.parametrize("name", ["nanosleep", "syscall", "poll", "read", "condwait", "sigsuspend"])
    def test_while_the_target_blocks(self, name):
        with running(build(targets.BLOCK), name) as process:
            targets.wait_until_blocked(process.pid)
            for point in range(0, 24, 3):
                killing.attach_and_die(process.pid, point)
            said = process.communicate(timeout=20)[0].split()
            assert tuple(int(word) for word in said[:2]) == BLOCKING[name][:2]
            assert process.returncode == 0

    def test_at_random(self):
        report = killing.run(kills=20, seed=1)
        assert (report.kills, report.harmed) == (20, 0)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_no_such_process():
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(NoSuchProcess):
        take_userfaultfd(process.pid)


def test_a_zombie():
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(NoSuchProcess, match="zombie"):
        take_userfaultfd(process.pid)
    assert process.wait() == 0


def test_a_kernel_thread():
    try:
        name = LinuxSpace(2).label
    except NoSuchProcess:
        pytest.skip("no kernel threads are seen from this pid namespace")
    if "kthreadd" not in name:
        pytest.skip("process 2 is no kernel thread in this pid namespace")
    with pytest.raises(KernelCannot, match="kernel thread") as caught:
        take_userfaultfd(2)
    assert caught.value.hint


def test_one_that_is_exiting_is_no_kernel_thread(sleeper, monkeypatch):
    """Its memory goes some time before it is a zombie."""
    status = read_status(sleeper)
    fields = {name: text for name, text in status.fields.items() if not name.startswith("Vm")}
    monkeypatch.setattr(permission, "read_status", lambda tid: type(status)(fields))
    with pytest.raises(NoSuchProcess, match="exiting"):
        take_userfaultfd(sleeper)


def test_oneself():
    with pytest.raises(InvalidArgument, match="this process") as caught:
        take_userfaultfd(os.getpid())
    assert caught.value.hint == "use pagescan.track()"


def test_a_thread_of_somebody_else(sleeper):
    with pytest.raises(InvalidArgument, match=f"is a thread of process {os.getpid()}"):
        take_userfaultfd(sleeper, tid=os.getpid())


def test_a_process_whose_id_was_given_to_another(sleeper):
    process = Process(sleeper)
    process.space.start_time -= 1
    with pytest.raises(NoSuchProcess, match="another one has its id"):
        take_userfaultfd(process)


def test_one_that_is_traced_already_names_the_tracer_and_goes_on():
    with running(build(targets.SPIN)) as process, killing.tracing(process.pid) as tracer:
        with pytest.raises(AccessDenied, match=f"process {tracer} .* traces it") as caught:
            take_userfaultfd(process.pid)
        assert f"kill {tracer}" in (caught.value.hint or "")
        # Its tracer gone, it has not even noticed that there was one.
        os.kill(tracer, signal.SIGKILL)
        assert verdict(process) == "right"


def test_a_32_bit_program_is_refused_untouched(monkeypatch):
    program = build(targets.NARROW, "-m32", "-static", "-nostdlib", "-fno-pie", "-no-pie")
    with runs_narrow(program) as process:
        with pytest.raises(KernelCannot, match="32-bit") as caught:
            take_userfaultfd(process.pid)
        assert "pagescan scan -p" in (caught.value.hint or "")
        # Where its file cannot be read its registers tell, if its text has the instruction at all.
        monkeypatch.setattr(permission, "elf_class", lambda pid: 0)
        with pytest.raises(KernelCannot, match=r"32-bit|no instruction"):
            take_userfaultfd(process.pid)
        assert process.poll() is None


@contextlib.contextmanager
def runs_narrow(program: str) -> Iterator[subprocess.Popen[str]]:
    with contextlib.ExitStack() as stack:
        try:
            process = stack.enter_context(running(program))
        except OSError as error:
            pytest.skip(f"32-bit programs do not run here: {error}")
        yield process


@pytest.mark.parametrize("kind", ["errno", "kill", "strict"])
def test_a_filtered_program(kind):
    with running(build(targets.SECCOMP), kind) as process:
        if has_capability(CAP_SYS_ADMIN):
            take(process.pid)
        else:
            with pytest.raises(AccessDenied, match="seccomp") as caught:
                take_userfaultfd(process.pid)
            assert (caught.value.hint or "").startswith(("sudo ", "run the same command with sudo"))
        said, _ = process.communicate("x", timeout=20)
        assert (said, process.returncode) == ("right\n", 0)


def test_a_filtered_program_without_the_capability_is_not_touched(monkeypatch):
    monkeypatch.setattr(permission, "has_capability", lambda bit: False)
    monkeypatch.setattr(ptrace.Tracee, "seize", lambda *_: pytest.fail("it was touched"))
    denied = pytest.raises(AccessDenied, match="only CAP_SYS_ADMIN")
    with running(build(targets.SECCOMP), "kill") as process, denied:
        take_userfaultfd(process.pid)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL])
def test_a_filter_that_cannot_be_suspended_after_all(number, sleeper, monkeypatch):
    filtered = permission.Permission(LAYOUT, suspend_seccomp=True)
    error = permission.explain_seize(OSError(number, "fake"), sleeper, filtered)
    if number == errno.EINVAL:
        assert isinstance(error, KernelCannot)
        assert "CONFIG_CHECKPOINT_RESTORE" in error.message
    else:
        assert isinstance(error, AccessDenied)
        assert error.hint


def test_a_process_of_another_user():
    if os.geteuid() == 0:
        code = killing.as_nobody(lambda: killing.expect_denied(1))
        assert code == 0
    else:
        with pytest.raises(AccessDenied, match="belongs to user 0") as caught:
            take_userfaultfd(1)
        assert "sudo" in (caught.value.hint or "")


def test_an_ordinary_user_attaches_to_his_own():
    if os.geteuid() != 0:
        pytest.skip("this already is an ordinary user: every other test shows it")
    program = build(targets.SPIN)
    assert killing.as_nobody(lambda: killing.attach_to_own(program)) == 0


def test_yama_is_explained(sleeper, monkeypatch):
    monkeypatch.setattr("pagescan.process.permission.os.open", refuse)
    monkeypatch.setattr("pagescan.kernel.procfs._yama_scope", lambda: 1)
    monkeypatch.setattr("pagescan.kernel.procfs.os.geteuid", lambda: os.stat(f"/proc/{sleeper}").st_uid or 4711)
    monkeypatch.setattr("pagescan.kernel.procfs._owner", lambda pid: None)
    with pytest.raises(AccessDenied, match="Yama allows it to descendants only") as caught:
        take_userfaultfd(sleeper)
    assert caught.value.hint == "sudo sysctl kernel.yama.ptrace_scope=0"


def refuse(*_: object) -> int:
    raise PermissionError(errno.EACCES, "fake")


def test_a_parent_in_vfork_is_given_up_and_goes_on():
    with running(build(targets.VFORK)) as process:
        with pytest.raises(KernelCannot, match=r"did not stop within 0\.1 s \(state D\).*vfork") as caught:
            take_userfaultfd(process.pid, timeout=0.1)
        assert caught.value.hint
        with open(f"/proc/{process.pid}/status") as file:
            assert "TracerPid:\t0\n" in file.read()
        said, _ = process.communicate("x", timeout=20)
        assert (said, process.returncode) == ("right\n", 0)


def test_a_target_without_a_free_descriptor_names_the_command():
    program = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); print('ready', flush=True); input()"
    with running(*python(program)) as process:
        with pytest.raises(KernelCannot, match="EMFILE") as caught:
            take_userfaultfd(process.pid)
        assert caught.value.hint == f"prlimit --pid {process.pid} --nofile=65536"


def test_a_target_that_is_killed_meanwhile(sleeper, monkeypatch):
    def kill_it(calls: object, pidfd: int, pid: int) -> tuple[int, int]:
        os.kill(pid, signal.SIGKILL)
        return module_take(calls, pidfd, pid)

    module_take: Callable[..., tuple[int, int]] = module.take
    monkeypatch.setattr(module, "take", kill_it)
    with pytest.raises(NoSuchProcess):
        take_userfaultfd(sleeper)


def test_text_that_changed_is_looked_up_again(sleeper, monkeypatch):
    looked = []
    look = module.look

    def stale(pid: int, may: permission.Permission, *, guards: bool) -> remote.Known:
        known = look(pid, may, guards=guards)
        looked.append(known)
        if len(looked) == 1:
            moved = known.gadgets.seen("call", LinuxSpace(pid).mappings()[0].start, b"\x0f\x05")
            return remote.Known(known.layout, moved, known.mappings)
        return known

    monkeypatch.setattr(module, "look", stale)
    take(sleeper)
    assert len(looked) == 2


def test_no_descriptor_of_ours_is_left_open(tracking, sleeper):
    before = len(os.listdir("/proc/self/fd"))
    take(sleeper)
    with TracedSpace(sleeper) as space:
        space.open_userfaultfd(TRACKING_FEATURES).close()
    with pytest.raises(KernelCannot, match="does not grant"), TracedSpace(sleeper) as space:
        space.open_userfaultfd(1 << 40)
    assert len(os.listdir("/proc/self/fd")) == before


# --- the address space -----------------------------------------------------------------------------------------------

WRITER = python(
    """
import ctypes, mmap
area = mmap.mmap(-1, 8 * mmap.PAGESIZE)
area.write(b"x" * 8 * mmap.PAGESIZE)
print("ready", flush=True)
print(ctypes.addressof(ctypes.c_char.from_buffer(area)), flush=True)
while True:
    page = int(input())
    area[page * mmap.PAGESIZE] = 7
    print(page, flush=True)
"""
)
PAGE = os.sysconf("SC_PAGE_SIZE")


def test_what_another_process_writes_is_seen(tracking):
    with running(*WRITER) as process, TracedSpace(process.pid) as space:
        start = int(said(process))
        with space.open_userfaultfd(TRACKING_FEATURES) as userfaultfd:
            pagemap = space.open_pagemap()
            userfaultfd.register(start, 8 * PAGE)
            assert written(pagemap, start, 8) == list(range(8))
            assert written(pagemap, start, 8) == []
            for page in (2, 5):
                tell(process, page)
            assert written(pagemap, start, 8) == [2, 5]
            assert written(pagemap, start, 8) == []
            pagemap.close()
        assert space.pause_ns == space.adopted[0].pause_ns > 0


def written(pagemap, start: int, count: int) -> list[int]:
    vec = np.zeros(count, REGION_DTYPE)
    argument = pack_scan_argument(
        flags=PM_SCAN_CHECK_WPASYNC | PM_SCAN_WP_MATCHING,
        start=start,
        end=start + count * PAGE,
        vec=vec.ctypes.data,
        vec_len=count,
        category_mask=Category.WRITTEN,
        return_mask=Category.WRITTEN,
    )
    found = vec[: pagemap.ioctl_scan(argument, vec)]
    return [
        page
        for region in found
        for page in range((int(region["start"]) - start) // PAGE, (int(region["end"]) - start) // PAGE)
    ]


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def tell(process: subprocess.Popen[str], page: int) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{page}\n")
    process.stdin.flush()
    assert said(process) == f"{page}\n"


def test_after_an_exec_its_memory_is_another(tracking):
    program = "import os; print('ready', flush=True); input(); os.execv('/bin/cat', ['cat', '/proc/self/stat', '-'])"
    with running(*python(program)) as process, TracedSpace(process.pid) as space:
        assert space.holds()
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        said(process)
        assert not space.holds()
        with pytest.raises(NoSuchProcess, match="executed another program"):
            space.open_userfaultfd(TRACKING_FEATURES)
        with TracedSpace(process.pid) as again:
            again.open_userfaultfd(TRACKING_FEATURES).close()


def test_after_its_exit():
    with running(*SLEEPER) as process, TracedSpace(Process(process.pid)) as space:
        process.communicate("\n")
        with pytest.raises(NoSuchProcess, match="has exited"):
            space.open_userfaultfd(TRACKING_FEATURES)


def test_a_closed_one_says_so(sleeper):
    space = TracedSpace(sleeper)
    space.close()
    space.close()
    with pytest.raises(Closed):
        space.open_userfaultfd(TRACKING_FEATURES)
