"""Whether the other threads of this process have been asleep all the while: then none of them has written anything.

A thread that is off every processor has to be put on one before it can run, and the kernel counts that first
(``sched_info_arrive()`` in ``kernel/sched/stats.h``): the third number of ``/proc/PID/task/TID/schedstat``. So a thread
that was off at some moment, and has the same count later, has not run in between.

That it was off, ``/proc/PID/task/TID/syscall`` tells: it says "running" unless the thread is off the processors, and
waits for one that is about to be (``task_current_syscall()`` in ``lib/syscall.c``). The state letter of ``stat`` does
not do: a thread has the letter S already while it makes up its mind whether to sleep.
"""

from __future__ import annotations

import os
import threading

_TASKS = "/proc/self/task"

#: How often each thread was put on a processor, by thread id.
Resting = dict[str, int]


def resting_threads(most: int) -> Resting | None:
    """The other threads, if all of them are off the processors; {} if there is none.

    None if one runs, if there are more than ``most``, or if this kernel does not tell.
    """
    others = _others()
    if len(others) > most:
        return None
    try:
        # The counts first: whoever runs between the two readings is found by the second, or has a new count later.
        counts = {tid: _arrivals(tid) for tid in others}
        asleep = all(_read(tid, "syscall") != b"running\n" for tid in others)
    except (OSError, ValueError, IndexError):
        return None
    return counts if asleep and all(counts.values()) else None


def still_resting(before: Resting) -> bool:
    """Whether no other thread has run since :func:`resting_threads` returned ``before``, if this one made none.

    Threads that are new are not looked for: only one that has run can have made them.
    """
    try:
        return all(_arrivals(tid) == count for tid, count in before.items())
    except (OSError, ValueError, IndexError):
        return False


def _others() -> list[str]:
    """The ids of the other threads, also of those that Python knows nothing of."""
    me = str(threading.get_native_id())
    return [tid for tid in os.listdir(_TASKS) if tid != me]


def _arrivals(tid: str) -> int:
    # "0 0 0" where the kernel does not count (CONFIG_SCHED_INFO).
    return int(_read(tid, "schedstat").split()[2])


def _read(tid: str, name: str) -> bytes:
    file = os.open(f"{_TASKS}/{tid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 256)
    finally:
        os.close(file)
