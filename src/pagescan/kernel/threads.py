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


class _Watched:
    """The two files of a thread, kept open: to open them anew costs five times as much as to read them."""

    __slots__ = ("_schedstat", "_syscall")

    def __init__(self, tid: str):
        self._schedstat = self._syscall = -1
        self._schedstat = os.open(f"{_TASKS}/{tid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._syscall = os.open(f"{_TASKS}/{tid}/syscall", os.O_RDONLY | os.O_CLOEXEC)

    def arrivals(self) -> int:
        """How often it was put on a processor. Raises OSError once it has gone, also if its id was given anew."""
        # "0 0 0" where the kernel does not count (CONFIG_SCHED_INFO).
        return int(os.pread(self._schedstat, 128, 0).split()[2])

    def is_off(self) -> bool:
        """Whether it is off the processors."""
        return os.pread(self._syscall, 128, 0) != b"running\n"

    def __del__(self) -> None:
        for file in (self._schedstat, self._syscall):
            if file >= 0:
                os.close(file)


class _Known(threading.local):
    """The other threads as this one knows them."""

    def __init__(self) -> None:
        self.pid = 0
        self.watched: dict[str, _Watched] = {}

    def all(self, most: int) -> dict[str, _Watched] | None:
        """Every other thread, also those that Python knows nothing of; None if there are more than ``most``.

        The link count of the directory is 2 and one for each thread (``proc_task_getattr()`` in ``fs/proc/base.c``). If
        it fits, and none of those that are known has gone (which reading its files tells), these are all.
        """
        if self.pid == os.getpid() and os.stat(_TASKS).st_nlink == 3 + len(self.watched):
            return self.watched if len(self.watched) <= most else None
        if self.pid != os.getpid():  # in a forked child the files are of the parent's threads
            self.pid, self.watched = os.getpid(), {}
        others = set(os.listdir(_TASKS)) - {str(threading.get_native_id())}
        if len(others) > most:
            return None
        for gone in self.watched.keys() - others:
            del self.watched[gone]
        for tid in others - self.watched.keys():
            self.watched[tid] = _Watched(tid)
        return self.watched


_known = _Known()


def resting_threads(most: int) -> Resting | None:
    """The other threads, if all of them are off the processors; {} if there is none.

    None if one runs, if there are more than ``most``, or if this kernel does not tell.
    """
    try:
        watched = _known.all(most)
        if watched is None:
            return None
        # The counts first: whoever runs between the two readings is found by the second, or has a new count later.
        counts = {tid: one.arrivals() for tid, one in watched.items()}
        asleep = all(one.is_off() for one in watched.values())
    except (OSError, ValueError, IndexError):
        _known.watched.clear()
        return None
    return counts if asleep and all(counts.values()) else None


def still_resting(before: Resting) -> bool:
    """Whether no other thread has run since :func:`resting_threads` returned ``before`` to this thread, if this one
    made none.

    Threads that are new are not looked for: only one that has run can have made them.
    """
    known = _known.watched
    try:
        return all(known[tid].arrivals() == count for tid, count in before.items())
    except (KeyError, OSError, ValueError, IndexError):
        return False
