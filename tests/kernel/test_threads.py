"""Whether other threads have run: sleeping ones, running ones, new ones."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pagescan.kernel.threads import resting_threads, still_resting

MANY = 1000


@contextmanager
def thread(body) -> Iterator[threading.Thread]:
    made = threading.Thread(target=body)
    made.start()
    try:
        yield made
    finally:
        made.join()


def until_resting() -> dict[str, int]:
    """What all other threads are like once they sleep (those of numpy, and of earlier tests)."""
    deadline = time.monotonic() + 20
    while (found := resting_threads(MANY)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return found


def test_a_sleeping_thread_rests_until_it_runs():
    wake, ran = threading.Event(), threading.Event()

    def body() -> None:
        wake.wait()
        ran.set()

    before = until_resting()
    with thread(body) as made:
        found = until_resting()
        assert set(found) - set(before) == {str(made.native_id)}
        assert still_resting(found)
        wake.set()
        ran.wait()
        assert not still_resting(found)


def test_a_thread_that_ran_and_sleeps_again_is_found():
    wake, again = threading.Event(), threading.Event()

    def body() -> None:
        wake.wait()
        again.wait()

    with thread(body):
        found = until_resting()
        wake.set()
        assert until_resting().keys() == found.keys()
        deadline = time.monotonic() + 20
        while still_resting(found):
            assert time.monotonic() < deadline
        again.set()


def test_a_thread_that_has_gone_is_found():
    wake = threading.Event()
    with thread(wake.wait):
        found = until_resting()
        wake.set()
    assert not still_resting(found)


def test_a_running_thread_is_none():
    over = threading.Event()

    def body() -> None:
        while not over.is_set():
            pass

    # While this thread holds the interpreter the other waits for it, and truly rests: ask until it is seen on its way.
    deadline = time.monotonic() + 20
    with thread(body):
        while not (ran := resting_threads(MANY) is None) and time.monotonic() < deadline:
            pass
        over.set()
    assert ran


def test_what_is_kept_open_of_a_thread_goes_with_it():
    def descriptors() -> int:
        return sum("/task/" in os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())

    until_resting()
    before = descriptors()
    wake = threading.Event()
    with thread(wake.wait):
        until_resting()
        assert descriptors() == before + 2
        wake.set()
    until_resting()
    assert descriptors() == before


def test_too_many_are_not_asked():
    wake = threading.Event()
    with thread(wake.wait):
        assert resting_threads(0) is None
        wake.set()


def test_a_thread_in_place_of_another_is_found():
    """As many as before, but not the same."""
    first, second = threading.Event(), threading.Event()
    before = until_resting()
    with thread(first.wait) as one:
        assert set(until_resting()) - set(before) == {str(one.native_id)}
        first.set()
    with thread(second.wait) as other:
        assert set(until_resting()) - set(before) == {str(other.native_id)}
        second.set()


def test_a_forked_child_asks_for_its_own():
    """Also when it has as many threads as its parent had."""
    wake = threading.Event()
    with thread(wake.wait):
        until_resting()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            own = threading.Event()
            made = threading.Thread(target=own.wait, daemon=True)
            made.start()
            same = set(until_resting()) == {str(made.native_id)}
            os.write(writing, b"yes" if same else b"no")
            os._exit(0)
        os.close(writing)
        said = os.read(reading, 8)
        os.close(reading)
        os.waitpid(child, 0)
        wake.set()
    assert said == b"yes"
