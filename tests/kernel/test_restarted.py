"""Which call restart_syscall goes on with: every call of the four is found, or nobody guesses."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pagescan.kernel.restarted import CLOCK_NANOSLEEP, FUTEX, NANOSLEEP, POLL, call_by_arguments, call_by_text

STACK, HEAP, STATIC = 0x7FFC_3456_7890, 0x55D0_1234_5678, 0x4C_5310  # the last: of a program that is not relocated
MINUS_ONE = (1 << 64) - 1
CPU_CLOCK = (1 << 64) - 6  # what glibc makes of CLOCK_PROCESS_CPUTIME_ID
PRIVATE, REALTIME = 128, 256


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        # nanosleep(request, remaining), as musl makes it: 0 where there is no argument
        ((STACK, STACK, 0, 0), NANOSLEEP),
        ((STACK, 0, 0, 0), NANOSLEEP),
        ((STATIC, STACK, 77, 99), NANOSLEEP),
        ((STACK, 0, 77, 0), None),  # or poll of no descriptors, for 77 ms
        ((STACK, 0, 0, HEAP), None),  # or a futex with a timeout
        ((HEAP, 1 << 32 | 9, 0, STACK), None),  # or a futex: the upper half of its operation does not count
        # clock_nanosleep(clock, flags, request, remaining)
        ((0, 0, STACK, STACK), CLOCK_NANOSLEEP),
        ((1, 0, STACK, 0), CLOCK_NANOSLEEP),
        ((11, 0, HEAP, 0), CLOCK_NANOSLEEP),
        ((CPU_CLOCK, 0, STACK, 0), CLOCK_NANOSLEEP),
        ((CPU_CLOCK % (1 << 32), 0, STACK, 0), None),  # or nanosleep: that is also an address
        ((0, 0, STATIC, 0), None),  # or poll of no descriptors, for 83 minutes
        ((0, 1, STACK, 0), None),  # until a time: not restarted so
        ((3, 0, STACK, 0), None),  # by a clock that nobody can sleep by
        # poll(descriptors, count, timeout)
        ((0, 0, 700, 0), POLL),
        ((0, 0, MINUS_ONE, 0), POLL),
        ((STACK, 1, 5000, 0), POLL),
        ((HEAP, 3, MINUS_ONE, STACK), POLL),
        ((STATIC, 300, (1 << 32) - 1, 0), POLL),
        ((STACK, 9, 5000, 0), POLL),  # a futex would need a timeout in the fourth
        ((STACK, 9, 5000, HEAP), None),
        ((STACK, 1, 0, 0), None),  # it would not have waited
        ((STACK, 0, 700, 0), None),  # or nanosleep
        # futex(word, operation, value, timeout)
        ((HEAP, 9 | PRIVATE, 0, STACK), FUTEX),
        ((HEAP, 9 | PRIVATE | REALTIME, 0, STACK), FUTEX),
        ((HEAP, PRIVATE, 0, STACK), FUTEX),
        ((HEAP, 9 | PRIVATE, 1, STACK), None),  # or poll of 137 descriptors, for 1 ms
        ((HEAP, 0, 0, STACK), None),  # or nanosleep
        ((HEAP, 11, 0, STACK), None),  # FUTEX_WAIT_REQUEUE_PI is not restarted so
        ((HEAP + 1, 9, 0, STACK), None),
        ((HEAP, 9, 0, 0), None),  # no timeout: neither
        # nothing of the kind
        ((0, 0, 0, 0), None),
        ((1 << 63, 1, 1, 0), None),
    ],
)
def test_the_only_call_that_can_have_these_arguments(arguments, call):
    assert call_by_arguments(*arguments) == call


@pytest.mark.parametrize(
    ("code", "call"),
    [
        (b"\xb8\x23\0\0\0\x0f\x05", NANOSLEEP),
        (b"\xb8\xca\0\0\0\x0f\x05", FUTEX),
        (b"\xb8\0\0\0\0\x0f\x05", None),  # read is not restarted so
        (b"\x48\x89\xf0\x90\x90\x0f\x05", None),  # the number in a register
        (b"", None),
    ],
)
def test_the_number_in_the_text(code, call):
    assert call_by_text(code) == call


# --- no call is taken for another ------------------------------------------------------------------------------------

anything = st.integers(0, MINUS_ONE) | st.sampled_from([0, 1, 9, 137, 700, STACK, HEAP, STATIC, MINUS_ONE])
pointers = st.integers(1 << 16, (1 << 47) - 1) | st.sampled_from([STACK, HEAP, STATIC])
pointers_or_null = pointers | st.just(0)
dirty = st.integers(0, (1 << 32) - 1) | st.just(0)  # the upper half of an int's register


def number(values: st.SearchStrategy[int]) -> st.SearchStrategy[int]:
    """A 32-bit number in its register."""
    return st.builds(lambda value, upper: upper << 32 | value % (1 << 32), values, dirty)


def extended(value: int) -> int:
    """A signed 32-bit number as libcs hand it over."""
    return value % (1 << 64)


timeouts = st.integers(-(1 << 31), (1 << 31) - 1).filter(bool)
clocks = st.sampled_from([0, 1, 2, 7, 8, 9, 11]) | st.integers(-(1 << 31), -1)
waits = st.sampled_from([0, 9, PRIVATE, 9 | PRIVATE, 9 | REALTIME, 9 | PRIVATE | REALTIME])


@given(pointers, pointers_or_null, anything, anything)
def test_nanosleep_is_never_another(request, remaining, third, fourth):
    assert call_by_arguments(request, remaining, third, fourth) in (NANOSLEEP, None)


@given(number(clocks), number(st.just(0)), pointers, pointers_or_null)
@example(1, 0, STATIC, 0)
def test_clock_nanosleep_is_never_another(clock, flags, request, remaining):
    assert call_by_arguments(clock, flags, request, remaining) in (CLOCK_NANOSLEEP, None)


@given(pointers, number(st.integers(0, 1 << 16)), number(timeouts), anything)
def test_poll_is_never_another(descriptors, count, timeout, fourth):
    assert call_by_arguments(descriptors, count, timeout, fourth) in (POLL, None)


@given(anything, number(st.just(0)), timeouts.map(extended) | timeouts.map(lambda value: value % (1 << 32)), anything)
@example(0, 0, STATIC, 0)
def test_poll_of_nothing_is_never_another(descriptors, count, timeout, fourth):
    assert call_by_arguments(descriptors, count, timeout, fourth) in (POLL, None)


@given(pointers.map(lambda address: address & ~3), number(waits), number(anything), pointers)
def test_a_futex_is_never_another(word, operation, value, timeout):
    assert call_by_arguments(word, operation, value, timeout) in (FUTEX, None)


@given(st.sampled_from([0, 1, 7, 11]) | st.integers(-4096, -1).map(extended), st.integers(1 << 32, 1 << 47), pointers)
def test_clock_nanosleep_is_known_wherever_its_request_lies_high(clock, request, remaining):
    """So glibc sleeps: on the stack, or in a program that is relocated."""
    assert call_by_arguments(clock, 0, request, remaining) == CLOCK_NANOSLEEP
    assert call_by_arguments(clock, 0, request, 0) == CLOCK_NANOSLEEP


@given(pointers, st.integers(1, 1 << 15), timeouts)
def test_poll_of_descriptors_is_known_by_the_absent_argument(descriptors, count, timeout):
    """Both libcs hand over 0 for what a call has not."""
    assert call_by_arguments(descriptors, count, extended(timeout), 0) == POLL
