"""Registers, signal frames, gadgets, and a system call made on behalf of a child."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import struct
import subprocess
import threading
import time
from typing import Any

import pytest

from pagescan.abi import Mapping
from pagescan.errors import KernelCannot, NoSuchProcess
from pagescan.kernel import ptrace, registers, remote, sigframe
from pagescan.kernel.gadgets import Gadgets, find_gadgets
from pagescan.kernel.guards import Guards
from pagescan.kernel.procfs import list_mappings
from pagescan.kernel.registers import (
    FS_BASE,
    NO_CALL,
    ORIG_RAX,
    R10,
    RAX,
    RDI,
    RDX,
    RIP,
    RSI,
    RSP,
    X86_64,
    X86_NEVER_RESTARTED,
    AArch64,
    WaysOn,
)
from pagescan.kernel.remote import Known, no_frame, with_stopped_thread

X86 = X86_64()
LAYOUT: Any = registers.current_layout()
GETPID = {"x86_64": 39, "aarch64": 172}
WORDS = tuple(range(1000, 1027))  # of a thread in user mode
SLEEP, READ, EPOLL_WAIT, CLOSE = 35, 0, 232, 3


def inside(call: int, result: int) -> registers.Words:
    """A thread that a stop took out of a call."""
    return tuple({RAX: result % (1 << 64), ORIG_RAX: call}.get(i, word) for i, word in enumerate(WORDS))


def again(words: registers.Words, call: int) -> registers.Words:
    return tuple({RAX: call, ORIG_RAX: NO_CALL, RIP: words[RIP] - 2}.get(i, w) for i, w in enumerate(words))


# --- registers -------------------------------------------------------------------------------------------------------


def test_a_thread_in_user_mode_goes_on_as_it_is():
    words = inside(NO_CALL, 5)
    assert X86.ways_on(words) == WaysOn(words, words, outside=True)
    assert not X86.in_call(words)


@pytest.mark.parametrize("result", [512, 513, 514])
def test_an_interrupted_call_is_restarted_by_the_kernel_or_by_hand(result):
    words = inside(READ, -result)
    assert X86.ways_on(words) == WaysOn(words, again(words, READ), outside=False)
    assert X86.in_call(words)


def test_a_call_that_returned_is_not_made_again():
    words = inside(READ, 17)
    outside = (*words[:ORIG_RAX], NO_CALL, *words[ORIG_RAX + 1 :])
    assert X86.ways_on(words) == WaysOn(words, outside, outside=True)


def test_a_timeout_goes_on_with_its_rest_but_starts_anew_after_sigreturn():
    words = inside(SLEEP, -516)
    assert X86.ways_on(words) == WaysOn(words, again(words, SLEEP), outside=False)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (b"\xb8\x23\0\0\0\x0f\x05", 35),
        (b"\xb8\xe6\0\0\0\x0f\x05", 230),
        (b"\xb8\x03\0\0\0\x0f\x05", None),
        (b"\x90\x90\x90\x90\x90\x0f\x05", None),
        (b"", None),
    ],
)
def test_a_call_interrupted_twice_is_known_by_its_text(code, found):
    words = inside(219, -516)
    way = X86.ways_on(words, code).by_sigreturn
    if found is None:  # it ends early, as signal(7) allows: nobody can tell which call it was
        assert (registers.signed(way[RAX]), way[RIP]) == (-errno.EINTR, words[RIP])
    else:
        assert way == again(words, found)


def test_a_call_interrupted_twice_is_known_by_its_arguments_where_its_text_does_not_tell():
    words = tuple({RDI: 1, RSI: 0, RDX: 0x7FFC_0000_1000, R10: 0}.get(i, w) for i, w in enumerate(inside(219, -516)))
    assert X86.ways_on(words, bytes(7)).by_sigreturn == again(words, 230)
    assert X86.ways_on(words, b"\xb8\x07\0\0\0\x0f\x05").by_sigreturn == again(words, 7)  # the text has the last word


@pytest.mark.parametrize("name", X86_NEVER_RESTARTED)
def test_eintr_of_calls_that_did_nothing_is_undone(name):
    words = inside(X86_NEVER_RESTARTED[name], -errno.EINTR)
    assert X86.undue_eintr(words)
    ways = X86.ways_on(words)
    assert ways.by_kernel == ways.by_sigreturn == again(words, X86_NEVER_RESTARTED[name])
    assert not ways.outside


def test_eintr_of_calls_that_may_have_done_their_work_is_left():
    words = inside(CLOSE, -errno.EINTR)
    assert not X86.undue_eintr(words)
    assert X86.ways_on(words).by_kernel == words


def test_numbers_of_never_restarted_calls_are_the_headers():
    if not shutil.which("gcc") or LAYOUT != X86:
        pytest.skip("no gcc for x86-64 to ask for the numbers")
    lines = "".join(f"SYS_{name}\n" for name in X86_NEVER_RESTARTED)
    command = ["gcc", "-E", "-P", "-include", "sys/syscall.h", "-xc", "-"]
    text = subprocess.run(command, input=lines, capture_output=True, text=True, check=True, timeout=30).stdout
    assert [int(line) for line in text.split()[-len(X86_NEVER_RESTARTED) :]] == list(X86_NEVER_RESTARTED.values())


def test_the_registers_of_a_call():
    words = X86.calling(WORDS, 0x7000, 323, [1, 2, 3], 0x8000)
    changed = {RIP: 0x7000, RAX: 323, ORIG_RAX: NO_CALL, RDI: 1, RSI: 2, RDX: 3, RSP: 0x8000}
    assert words == tuple(changed.get(i, word) for i, word in enumerate(WORDS))
    assert X86.calling(WORDS, 0x7000, 3, [-1], None)[RSP] == WORDS[RSP]
    assert X86.result(inside(0, -22)) == -22


def test_the_registers_of_a_call_on_arm64():
    layout, words = AArch64(), tuple(range(34))
    called = layout.calling(words, 0x7000, 282, [5, 6], 0x9000)
    assert called == (5, 6, *words[2:8], 282, *words[9:31], 0x9000, 0x7000, 33)
    assert layout.ways_on(words) == WaysOn(words, words, outside=False)
    assert not layout.in_call(words)
    assert not layout.undue_eintr(words)
    assert (layout.stack_pointer(words), layout.instruction_pointer(words)) == (31, 32)
    assert layout.result((2**64 - 38, *words[1:])) == -38


def test_packing_is_reversible():
    assert X86.form.unpack(X86.form.pack(*WORDS)) == WORDS
    assert (X86.form.size, AArch64().form.size) == (27 * 8, 34 * 8)


# --- frames ----------------------------------------------------------------------------------------------------------

MASK = 0x0706050403020100


def room_with(size: int, *, features: int = 7, in_use: int = 7) -> bytearray:
    """A room with an extended state as ptrace gives it."""
    room = bytearray(1 << 14)
    state = bytearray(b"\xcc" * size)
    struct.pack_into("=Q", state, 464, features)
    if size > 520:
        struct.pack_into("=Q", state, 512, in_use)
    room[sigframe.STATE_AT : sigframe.STATE_AT + size] = state
    return room


def build(room: bytearray, size: int, stack: int = 0x7FFF0000) -> tuple[int, int]:
    return sigframe.build(room, size, WORDS, stack, MASK, 0x1234)


def test_the_extended_state_is_marked_as_signal_frames_are():
    room = room_with(832)
    assert build(room, 832)[1] == sigframe.STATE_AT + 836
    state = room[sigframe.STATE_AT :]
    assert struct.unpack_from("=IIQI", state, 464) == (0x46505853, 836, 7, 832)
    assert state[484:512] == bytes(28)
    assert state[832:836] == struct.pack("=I", 0x46505845)
    assert state[:464] == b"\xcc" * 464


@pytest.mark.parametrize(("in_use", "size"), [(7, 2816), (7 | 1 << 18, 11008)])
def test_tiles_that_are_not_in_use_are_left_out(in_use, size):
    room = room_with(11008, features=0x602E7, in_use=in_use)
    assert build(room, 11008)[1] == sigframe.STATE_AT + size + 4
    features = struct.unpack_from("=IIQI", room, sigframe.STATE_AT + 464)[2]
    assert bool(features >> 18 & 1) is (size == 11008)


@pytest.mark.parametrize(("size", "why"), [(512, "XSAVE"), ((1 << 14) - sigframe.STATE_AT, "room")])
def test_a_state_that_cannot_be_kept_is_refused(size, why):
    with pytest.raises(ValueError, match=why):
        build(room_with(size, in_use=7 | 1 << 18), size)


@pytest.mark.parametrize("stack", range(0x7FFF0000, 0x7FFF0048, 8))
def test_a_frame_lies_below_the_red_zone_and_says_where_its_state_is(stack):
    room = room_with(832)
    address, size = build(room, 832, stack)
    assert stack - 128 - 64 < address + size <= stack - 128
    assert address % 16 == 0
    state_at = struct.unpack_from("=Q", room, 8 + 40 + 8 * 23)[0]
    assert state_at % 64 == 0
    assert state_at == address + sigframe.STATE_AT
    assert struct.unpack_from("=Q", room)[0] == 0x1234


FIELDS: tuple[str, ...] = ("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
FIELDS += ("rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "rip", "efl")


def test_the_frame_is_laid_out_as_libc_knows_it(tmp_path):
    """glibc's ``ucontext_t`` begins as the kernel's; its registers and mask must be where we put them."""
    if not shutil.which("gcc") or LAYOUT != X86:
        pytest.skip("no gcc for x86-64 to ask for offsets")
    names = [f"uc_mcontext.gregs[REG_{name.upper()}]" for name in FIELDS]
    names += ["uc_mcontext.gregs[REG_CSGSFS]", "uc_mcontext.fpregs", "uc_sigmask", "uc_stack.ss_flags"]
    shows = "".join(f'printf("%zu\\n", offsetof(ucontext_t, {name}));' for name in names)
    source = (
        "#define _GNU_SOURCE\n#include <ucontext.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(){" + shows + "}"
    )
    program = str(tmp_path / "offsets")
    subprocess.run(["gcc", "-xc", "-o", program, "-"], input=source, text=True, check=True, timeout=60)
    offsets = [
        int(line) for line in subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    ]
    room = room_with(832)
    build(room, 832)
    frame = room[8:]
    order = (9, 8, 7, 6, 3, 2, 1, 0, 14, 13, 4, 5, 12, 10, 11, 19, 16, 18)  # struct user_regs_struct's, by FIELDS
    assert [struct.unpack_from("=Q", frame, at)[0] for at in offsets[:18]] == [WORDS[index] for index in order]
    assert struct.unpack_from("=4H", frame, offsets[18]) == (WORDS[17], 0, 0, WORDS[20])
    assert struct.unpack_from("=Q", frame, offsets[19])[0] % 64 == 0
    assert struct.unpack_from("=Q", frame, offsets[20])[0] == MASK
    assert struct.unpack_from("=i", frame, offsets[21])[0] == 0x100


GADGETS = Gadgets(call=1, returning=2, restorer=3)
GUARD = Mapping(0x10000, 0x11000, "---p")
STACK = Mapping(0x11000, 0x20000, "rw-p")


def on(stack: int, thread_block: int = 0, **changes: object) -> str:
    words = tuple({RSP: stack, FS_BASE: thread_block}.get(i, word) for i, word in enumerate(WORDS))
    known = {"layout": X86, "gadgets": GADGETS, "mappings": [GUARD, STACK]} | changes
    return no_frame(Known(**known), words)  # type: ignore[arg-type]


def test_which_memory_may_hold_a_frame():
    assert on(0x18000, 0x1FF00) == ""  # a thread's own stack: its block above, a guard below
    assert on(0x18000, mappings=[Mapping(0x11000, 0x20000, "rw-p", name="[stack]")]) == ""
    assert "may not be a stack" in on(0x18000, 0x40000)  # a coroutine's, an alternative one
    assert "may not be a stack" in on(0x18000, 0x1FF00, mappings=[STACK])  # no guard: Go's heap
    assert "may not be a stack" in on(0x18000, 0x17000)  # the block lies below
    assert "no memory known" in on(0x50000, 0x1FF00)
    assert "shadow stack" in on(0x18000, 0x1FF00, shadow_stack=True)
    assert "syscall; ret" in on(0x18000, 0x1FF00, gadgets=Gadgets(call=1))
    assert "aarch64" in on(0x18000, 0x1FF00, layout=AArch64())


@pytest.mark.parametrize("apart", [False, True], ids=["one mapping", "a guard apart"])
def test_which_memory_beside_guard_regions_may_hold_a_frame(apart):
    """Two stacks in one mapping, at 0x11000 and at 0x18000, each with its guard and its thread's block."""

    def among(stack: int, thread_block: int, guards: Guards) -> str:
        return on(stack, thread_block, mappings=[GUARD, STACK] if apart else [STACK], guards=guards)

    both = Guards((0x11000, 0x18000), (0x12000, 0x19000))
    assert among(0x1B000, 0x1FF00, both) == ""
    assert among(0x14000, 0x17F00, both) == ""
    assert "may not be a stack" in among(0x14000, 0x1FF00, both)  # a coroutine on the other's
    assert "may not be a stack" in among(0x1B000, 0x17F00, both)
    assert "may not be a stack" in among(0x18800, 0x1FF00, both)  # in the guard itself
    assert "may not be a stack" in among(0x1B000, 0x40000, both)
    above = Guards((0x1D000,), (0x1E000,))
    assert "may not be a stack" in among(0x1B000, 0x1FF00, above)
    assert (among(0x1B000, 0x1CF00, above) == "") is apart  # a guard below is needed, of either kind
    unknown = among(0x1B000, 0x1FF00, Guards(told=False))
    assert unknown == "" if apart else "Linux 6.16 does" in unknown


# --- a child ---------------------------------------------------------------------------------------------------------

PROGRAM = "import os; print(os.getpid(), flush=True); input()"


@pytest.fixture
def target(child):
    if LAYOUT is None:
        pytest.skip("pagescan knows no registers of this machine")
    process = child(PROGRAM)
    process.stdout.readline()
    try:
        ptrace.in_tracer_thread(lambda: ptrace.Tracee(process.pid).seize())
    except OSError as error:
        pytest.skip(f"ptrace is refused here: {error}")
    return process


def known(pid: int) -> Known:
    assert LAYOUT is not None
    return Known(LAYOUT, find_gadgets(pid, LAYOUT), list_mappings(pid))


@pytest.mark.parametrize("frame", [True, False])
def test_a_call_is_made_by_the_child(target, frame):
    number = GETPID[LAYOUT.name]

    def work():
        return with_stopped_thread(
            target.pid,
            known(target.pid),
            lambda calls: [calls.call(number), calls.call(number)],
            frame=frame,
            timeout=5.0,
        )

    results, pause = ptrace.in_tracer_thread(work)
    assert results == [target.pid, target.pid]
    assert pause.survives is (frame and LAYOUT == X86)
    assert bool(pause.lacks) is not pause.survives
    assert 0 < pause.held_ns < pause.pause_ns


@pytest.mark.parametrize("attended", [False, True])
@pytest.mark.parametrize("program", [PROGRAM, PROGRAM.replace("input()", "\nwhile sys.stdin.fileno() == 0: pass")])
def test_the_last_call_is_made_by_the_time_it_runs_on(child, program, attended):
    """A descriptor of the child is closed, whether it blocked or ran; and it runs on."""
    process = child(program.replace("import os", "import os, sys"))
    process.stdout.readline()
    options = ptrace.PTRACE_O_SUSPEND_SECCOMP if attended and os.geteuid() == 0 else 0

    def work():
        return with_stopped_thread(
            process.pid, known(process.pid), lambda calls: calls.call_last(LAYOUT.close, 1), options=options, timeout=5
        )

    ptrace.in_tracer_thread(work)
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{process.pid}/fd/1"):
        assert time.monotonic() < deadline
    assert process.poll() is None
    process.kill()
    process.communicate()


def test_a_failed_call_is_a_negative_errno(target):
    close = LAYOUT.close

    def work():
        return with_stopped_thread(target.pid, known(target.pid), lambda calls: calls.call(close, 999), timeout=5.0)

    assert ptrace.in_tracer_thread(work)[0] == -errno.EBADF


def test_what_the_plan_raises_comes_through_and_the_child_goes_on(target):
    def work():
        return with_stopped_thread(target.pid, known(target.pid), lambda calls: 1 // 0, timeout=5.0)

    with pytest.raises(ZeroDivisionError):
        ptrace.in_tracer_thread(work)
    assert target.communicate("\n", timeout=10) is not None
    assert target.returncode == 0


def test_gadgets_are_what_they_are_said_to_be(target):
    found = find_gadgets(target.pid, LAYOUT)
    with open(f"/proc/{target.pid}/mem", "rb") as memory:
        for address, text in found.texts:
            memory.seek(address)
            assert memory.read(len(text)) == text
    assert found.call is not None
    assert found.call % LAYOUT.alignment == 0
    if LAYOUT == X86:
        assert found.complete


def test_a_stale_gadget_is_noticed(target):
    stale = Known(LAYOUT, Gadgets(call=1, texts=((1 << 40, b"xx"),)), [])
    with pytest.raises(remote.TextChanged):
        ptrace.in_tracer_thread(lambda: with_stopped_thread(target.pid, stale, lambda calls: None, timeout=5.0))


def test_memory_that_cannot_be_written_gets_no_frame(target, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EFAULT, "fake")

    monkeypatch.setattr(ptrace.Tracee, "write_room", refuse)
    number = GETPID[LAYOUT.name]

    def work():
        return with_stopped_thread(target.pid, known(target.pid), lambda calls: calls.call(number), timeout=5.0)

    result, pause = ptrace.in_tracer_thread(work)
    assert (result, pause.survives) == (target.pid, False)
    assert pause.lacks


def test_waiting_has_an_end(target):
    def work():
        tracee = ptrace.Tracee(target.pid)
        tracee.seize()
        tracee.wait(0.05)

    began = time.monotonic()
    with pytest.raises(KernelCannot, match=r"did not stop within 0\.05 s"):
        ptrace.in_tracer_thread(work)
    assert time.monotonic() - began < 5


def test_the_end_of_the_child_is_noticed_and_left_to_its_parent(target):
    def work():
        tracee = ptrace.Tracee(target.pid)
        tracee.seize()
        os.kill(target.pid, signal.SIGKILL)
        tracee.wait(5.0)

    with pytest.raises(NoSuchProcess):
        ptrace.in_tracer_thread(work)
    assert target.wait(10) == -signal.SIGKILL


def test_the_end_of_the_thread_detaches(target):
    def work():
        tracee = ptrace.Tracee(target.pid)
        tracee.seize()
        tracee.interrupt()
        return tracee.wait(5.0).is_interrupt

    assert ptrace.in_tracer_thread(work)
    with open(f"/proc/{target.pid}/status") as file:
        assert "TracerPid:\t0\n" in file.read()
    target.communicate("\n", timeout=10)
    assert target.returncode == 0


def test_signals_wait_until_the_tracing_is_over():
    """Ctrl-C must not take the caller away from a thread that holds another program."""
    came = []
    before = signal.signal(signal.SIGUSR1, lambda *_: came.append(threading.current_thread().name))
    try:

        def work():
            os.kill(os.getpid(), signal.SIGUSR1)
            return list(came)

        assert ptrace.in_tracer_thread(work) == []
        assert came == [threading.main_thread().name]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_no_garbage_collection_meanwhile():
    import gc

    assert gc.isenabled()
    with ptrace.no_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_processors_are_kept_awake_only_meanwhile():
    def requests() -> int:
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        return sum(os.path.exists(link) and os.readlink(link) == "/dev/cpu_dma_latency" for link in links)

    before = requests()
    with ptrace.prompt_processors():
        assert requests() - before == os.access("/dev/cpu_dma_latency", os.W_OK)
    assert requests() == before


def test_an_exchange_is_no_larger_than_its_room():
    with pytest.raises(ValueError, match="20000 bytes in one exchange"):
        ptrace.Places.of((4096, 10000), (0, 10000))


def test_where_processors_may_not_be_kept_awake_nothing_is_made(monkeypatch, tmp_path):
    def missing(path: str, flags: int) -> int:
        assert path == "/dev/cpu_dma_latency"
        return real(str(tmp_path / "missing"), flags)

    real = os.open
    monkeypatch.setattr(os, "open", missing)
    with ptrace.prompt_processors():
        pass
    assert os.listdir(tmp_path) == []
