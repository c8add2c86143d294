"""Which call a thread is in that waits in restart_syscall(2), on x86-64: its registers hold that number instead.

restart_syscall goes on with a call that a signal or a stop has interrupted, with what is left of its timeout. Few calls
are continued so: those that use ``set_restart_fn()`` (Linux 5.12, 5abbe51a5262, "kernel, fs: Introduce and use
set_restart_fn() and arch_set_restart_data()"). They are nanosleep; clock_nanosleep that is relative, by any clock;
poll, with a timeout or without; and futex, but of it only FUTEX_WAIT and FUTEX_WAIT_BITSET with a timeout
(``futex_wait()`` in ``kernel/futex/waitwake.c``). Not ppoll, select, sigtimedwait, or what else futex can wait for.

Two things tell which it was. First the instruction before ``syscall``, if it sets the number. But glibc from 2.41 on
makes every call that can be cancelled from one place, with the number in a register (89b53077d2, "nptl: Fix Race
conditions in pthread cancellation [BZ#12683]"), and so does musl. Then the arguments, which stay in their registers:
often they are possible for one of these calls only. A wrong number would be worse than none, so what could be of two
calls is of none.
"""

from __future__ import annotations

NANOSLEEP, POLL, FUTEX, CLOCK_NANOSLEEP = 35, 7, 202, 230
_CALLS = frozenset({NANOSLEEP, POLL, FUTEX, CLOCK_NANOSLEEP})

_LOWEST, _HIGHEST = 1 << 16, 1 << 63  # of pointers: vm.mmap_min_addr's default; the kernel's half begins
_WORD = (1 << 32) - 1
#: More descriptors than anybody polls: the default of fs.nr_open.
_DESCRIPTORS = 1 << 20
#: REALTIME, MONOTONIC, PROCESS_CPUTIME, BOOTTIME, both ALARM clocks, TAI: those that one can sleep by.
_CLOCKS = frozenset({0, 1, 2, 7, 8, 9, 11})
#: FUTEX_WAIT and FUTEX_WAIT_BITSET, each perhaps with FUTEX_PRIVATE_FLAG (128) and FUTEX_CLOCK_REALTIME (256).
_WAITS = frozenset({wait | private | clock for wait in (0, 9) for private in (0, 128) for clock in (0, 256)})


def call_by_text(code: bytes) -> int | None:
    """The number in ``mov $number, %eax; syscall``, if the text before the instruction pointer ends so."""
    number = int.from_bytes(code[1:5], "little")
    return number if code[:1] + code[5:] == b"\xb8\x0f\x05" and number in _CALLS else None


def call_by_arguments(first: int, second: int, third: int, fourth: int) -> int | None:
    """The only one of these calls whose first four arguments these can be (rdi, rsi, rdx, r10), or None.

    Of an ``int`` only the lower half counts, as for the kernel: what is above may be anything. With one exception, poll
    of no descriptors, whose timeout is taken to be extended to the whole register, as glibc and musl do: else it could
    not be told from clock_nanosleep.
    """
    possible = [
        call
        for call, may in (
            (NANOSLEEP, _pointer(first) and _pointer_or_null(second)),
            (POLL, _may_poll(first, second & _WORD, third)),
            (FUTEX, _pointer(first) and first % 4 == 0 and second & _WORD in _WAITS and _pointer(fourth)),
            (CLOCK_NANOSLEEP, _may_sleep_by(first & _WORD, second & _WORD, third, fourth)),
        )
        if may
    ]
    return possible[0] if len(possible) == 1 else None


def _may_poll(descriptors: int, count: int, timeout: int) -> bool:
    if count >= _DESCRIPTORS or timeout & _WORD == 0:  # with no timeout it does not wait
        return False
    return _pointer(descriptors) or (count == 0 and (timeout <= _WORD or timeout >= (1 << 64) - (1 << 31)))


def _may_sleep_by(clock: int, flags: int, request: int, remaining: int) -> bool:
    clock_is_one = clock in _CLOCKS or clock >> 31 == 1  # negative: of the processor time of a process or thread
    return clock_is_one and flags == 0 and _pointer(request) and _pointer_or_null(remaining)


def _pointer(word: int) -> bool:
    return _LOWEST <= word < _HIGHEST


def _pointer_or_null(word: int) -> bool:
    return word == 0 or _pointer(word)
