"""Another process tracked from outside: what it has mapped changes, and the tracker follows.

Each look begins with the difference between what the process has mapped now and what is covered. New mappings are
registered and reported with all they hold (whatever is in them was written since the last look); those that are gone
are forgotten; one that was replaced at the same address answers EPERM, and is treated as new. So nothing is lost
between two looks, whatever the process does to its address space.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from ..errors import AccessDenied, Closed, InvalidArgument, KernelCannot, NoSuchProcess, PagescanError
from ..query import Category
from ..ranges import Region, Regions
from .base import Findings, Hot
from .exempting import Exempting, check_hot, hot_reason
from .extents import Extents
from .followed import open_engine
from .hub import Reader
from .process_engine import find_bridges, process_extent
from .written import Quality, Written

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from ..abi import Mapping
    from ..process.attach import TracedSpace
    from ..process.spawn import Spawned
    from .base import Extent
    from .changed import Changed

#: What ``mappings=`` may be: name patterns, a function, or nothing for every mapping that can be written to.
Chosen = str | Iterable[str] | Callable[["Mapping"], bool] | None

_NEVER = ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]")
#: Looks that may each meet a mapping replaced since the one before; a process cannot do that for ever by chance.
_ROUNDS = 8


def attach(target: int | str, *, mappings: Chosen = None, engine: str = "auto", hot: Hot = "protect") -> ProcessTracker:
    """Track a live process that knows nothing of it: which of its pages are written to from now on.

    One of its threads stands still for a fraction of a millisecond (``tracker.pause_ns``), while the process makes a
    userfaultfd on our behalf; nothing of it stays behind, and it is not stopped again. If this process dies, the
    target goes on unharmed.

    Args:
        target: a pid; or the path of the Unix socket on which a process called :func:`pagescan.share`.
        mappings: which mappings: a name pattern or several (``"[heap]"``, ``"*.so*"``), or a function of a
            :class:`Mapping`. By default all that can be written to.
        engine: ``"auto"`` takes ``"pagemap-scan"``; where that cannot be had (a seccomp filter, a debugger, a 32-bit
            program) ``"compare"``, which does nothing to the process, but reads its memory at each look and keeps a
            copy of it, or digests. Or one of these, or ``"pagemap-read"``, by name. ``tracker.engine`` and
            ``tracker.why`` tell.
        hot: ``"exempt"`` leaves memory that is written to in nearly every interval unprotected, as in :func:`track`.

    Raises NoSuchProcess, AccessDenied (with the one command that mends it), KernelCannot. All is checked before
    anything is touched.
    """
    from ..process.attach import TracedSpace
    from ..process.share import connect

    if isinstance(target, str):
        adopted = connect(target)
        return ProcessTracker(TracedSpace(adopted.pid, ready=adopted), mappings=mappings, engine=engine, hot=hot)
    if target == os.getpid():
        raise InvalidArgument("a process does not attach to itself", hint="track buffers: pagescan.track(array)")
    return ProcessTracker(TracedSpace(target), mappings=mappings, engine=engine, hot=hot)


def spawn(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: dict[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    mappings: Chosen = None,
    hot: Hot = "protect",
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
) -> ProcessTracker:
    """Start a program tracked from before its first instruction; ``tracker.popen`` is the process.

    Arguments as for :class:`subprocess.Popen`; errors as :func:`attach`, and InvalidArgument for a program that
    cannot be executed.
    """
    from ..process.spawn import spawn_stopped

    started = spawn_stopped(argv, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr)
    try:
        tracker = ProcessTracker(started.space, mappings=mappings, hot=hot, spawned=started)
        started.start()
    except BaseException:
        started.kill()
        raise
    return tracker


class ProcessCursor:
    """A reader of a tracked process with its own "since I last asked"; made by :meth:`ProcessTracker.cursor`."""

    def __init__(self, following: _Following):
        self._following = following
        self._reader = following.new_reader()

    def take(self) -> Written:
        """The pages the process has written to since this reader last asked; they are protected again.

        Mappings that are new are reported with all they hold. After the process has exited one last answer has what
        was known (quality LOST); then NoSuchProcess.
        """
        return self._following.look(self._reader, take=True)

    def peek(self) -> Written:
        """What :meth:`take` would answer of the mappings covered so far; nothing changes."""
        return self._following.look(self._reader, take=False)

    def changed(self) -> Changed:
        """Whether anything was written to since this reader last took, and a key that is equal to an earlier one of
        this reader if, and only if, nothing was written to in between; see :meth:`pagescan.Cursor.changed`.

        Memory that is mapped, unmapped or replaced, and another program executed, make it unequal as well. What is due
        stays due. Raises NoSuchProcess once the process has exited.
        """
        return self._following.changed(self._reader)

    @contextlib.contextmanager
    def taking(self) -> Iterator[Written]:
        """:meth:`take` as a transaction: if the body raises, these pages are due again in the next answer."""
        written = self.take()
        try:
            yield written
        except BaseException:
            self._following.give_back(self._reader, written)
            raise

    def forget(self, regions: Regions) -> None:
        """Protect these pages again and leave them out of the next answer: this reader wrote to them by itself.

        Other readers are told of them as written. The process stands still meanwhile (:meth:`ProcessTracker.frozen`),
        or what it writes to these pages is forgotten as well.
        """
        self._following.forget(self._reader, regions)


class ProcessTracker(ProcessCursor):
    """A tracked process; made by :func:`attach` and :func:`spawn`. A context manager.

    Attributes:
        pid: its process id.
        pause_ns: the longest it can have stood still for us, in nanoseconds.
        popen: the process as :mod:`subprocess` knows it, if it was spawned.
        engine, why: which engine answers, and why.
        untracked: mappings that could be written to but cannot be tracked, with the reason.
    """

    def __init__(
        self,
        space: TracedSpace,
        *,
        mappings: Chosen = None,
        engine: str = "auto",
        hot: Hot = "protect",
        spawned: Spawned | None = None,
    ):
        self.pid = space.pid
        self.popen = spawned.popen if spawned else None
        try:
            super().__init__(_Following(space, chooser(mappings), engine, hot))
        except BaseException:
            space.close()
            raise

    @property
    def pause_ns(self) -> int:
        return self._following.space.pause_ns

    @property
    def space(self) -> TracedSpace:
        """The memory that is tracked; another one after the process has executed a program."""
        return self._following.space

    @property
    def engine(self) -> str:
        return self._following.engine.name

    @property
    def why(self) -> str:
        return self._following.why

    @property
    def untracked(self) -> list[tuple[Mapping, str]]:
        return list(self._following.untracked.values())

    @property
    def pages(self) -> Regions:
        """The page ranges that are covered."""
        return self._following.pages

    @property
    def closed(self) -> bool:
        return self._following.closed

    def cursor(self) -> ProcessCursor:
        """An independent reader, from now on."""
        return ProcessCursor(self._following)

    def mappings(self) -> Sequence[Mapping]:
        """The mappings of the process now, by address."""
        return self._following.space.mappings()

    def read(self, regions: Regions) -> NDArray[np.uint8]:
        """The bytes of the regions now, one after another. For contents of one moment see :meth:`frozen`."""
        return self._following.space.read(regions)

    @contextlib.contextmanager
    def frozen(self, timeout: float = 2.0) -> Iterator[None]:
        """The process stands still (SIGSTOP) while the body runs, and goes on afterwards whatever happens in it.

        A process that was stopped already stays so. Raises KernelCannot if it does not stop within ``timeout`` seconds.
        """
        from ..kernel import procfs

        if procfs.read_stat(self.pid).state in "Tt":
            yield
            return
        _signal(self.pid, signal.SIGSTOP)
        try:
            deadline = time.monotonic() + timeout
            while not _all_stopped(self.pid):
                if time.monotonic() > deadline:
                    raise KernelCannot(f"process {self.pid} did not stop within {timeout} s", pid=self.pid)
                time.sleep(0.0002)
            yield
        finally:
            with contextlib.suppress(NoSuchProcess):
                _signal(self.pid, signal.SIGCONT)

    def detach(self) -> None:
        """Stop tracking; the process goes on. Unprotecting its memory takes the kernel some 9 ms for each GiB."""
        self._following.close()

    close = detach

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.pages.page_count:,} pages"
        return f"<ProcessTracker of process {self.pid}: {state}>"


class _Following:
    """What the readers of one process share: the engine, what is covered, and the lock."""

    def __init__(
        self, space: TracedSpace, wanted: Callable[[Mapping], bool], engine: str = "auto", hot: Hot = "protect"
    ):
        check_hot(hot)
        self.space = space
        self._wanted = wanted
        self._lock = threading.RLock()
        #: Weakly: a reader lives as long as its cursor.
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        self.pages = Regions.empty(page_size=space.page_size)
        self.extents: list[Extent] = []
        self._asked: tuple[Regions, Extents] = self.pages, Extents()
        self._exempting = Exempting(Extents(), space.page_size) if hot == "exempt" else None
        self.untracked: dict[tuple[int, int], tuple[Mapping, str]] = {}
        #: What was mapped at the last look; the space gives the same object again as long as that is unchanged.
        self._now: Sequence[Mapping] = ()
        #: Something was forgotten since.
        self._stale = False
        self.closed = False
        self._ended = False
        self.engine, self.why = open_engine(space, engine)
        try:
            self._cover(self._changes()[1], arm=True)
        except BaseException:
            self.engine.close()
            raise

    def new_reader(self) -> Reader:
        with self._lock:
            reader = Reader(Regions.span(0, (1 << 63), page_size=self.space.page_size), ())
            if self._readers:
                self._take(None)
            self._readers.add(reader)
            return reader

    def give_back(self, reader: Reader, written: Written) -> None:
        with self._lock:
            reader.give_back(written, written.exempted)

    def changed(self, reader: Reader) -> Changed:
        with self._lock:
            self._check()
            self._take(None)  # so that all of it is pending, also of this reader
            return reader.changed()

    def _check(self) -> None:
        if self.closed:
            raise Closed(f"process {self.space.pid} is no longer tracked", hint="attach to it again")
        if self._ended:
            raise NoSuchProcess(f"process {self.space.pid} has exited", pid=self.space.pid)

    def forget(self, reader: Reader, regions: Regions) -> None:
        with self._lock:
            self._check()
            found = self.engine.take(Extents.of(self.extents).near(regions)).written
            for other in self._readers:
                if other is not reader:
                    other.told(found)
            reader.forget(found, regions)

    def look(self, reader: Reader, *, take: bool) -> Written:
        with self._lock:
            self._check()
            try:
                due = reader.found(self._take(reader)) if take else reader.due(self._peek())
            except NoSuchProcess as error:
                return self._last_answer(reader, error)
            written = due.written.with_categories(Category.WRITTEN)
            if take and self._exempting is not None:
                self._exempting.note(reader, written)
            exempted = written & due.unsure
            quality = self._quality(due.written, exempted)  # which its categories may tell
            return Written.of(written, self.pages, *quality, exempted)

    def _quality(self, written: Regions, exempted: Regions) -> tuple[Quality, str]:
        caveat = self.engine.caveat(written, self.extents) if written else ""
        reasons = "; ".join(reason for reason in (caveat, hot_reason(exempted)) if reason)
        return (Quality.SUPERSET, reasons) if reasons else (Quality.EXACT, "")

    def _last_answer(self, reader: Reader, error: PagescanError) -> Written:
        # Without its memory it is exiting, also where it is not gone yet; after an exec the new memory was found.
        self._ended = not (self.space.is_alive() and self.space.holds())
        if not self._ended:
            raise error
        return Written.of(reader.pending, self.pages, Quality.LOST, "the process has exited; its memory is gone")

    def _covered(self) -> Extents:
        """The extents, as one value for as long as nothing changes."""
        if self._asked[0] is not self.pages:
            self._asked = self.pages, Extents(self.extents)
            if self._exempting is not None:
                self._exempting.follow(self._asked[1])
        return self._asked[1]

    def _peek(self) -> Findings:
        extents = self._covered()
        return self._exempting.peek(self.engine, extents) if self._exempting else self.engine.peek(extents)

    def _look(self, reader: Reader | None) -> Findings:
        extents = self._covered()
        if self._exempting is None:
            return self.engine.take(extents)
        return self._exempting.take(self.engine, extents, reader or self)

    def _take(self, reader: Reader | None) -> Findings:
        """Everything written since the last look of anybody; told to every reader but ``reader``."""
        found = unsure = Regions.empty(page_size=self.space.page_size)
        if not self.space.holds():
            self._follow_exec()
        try:
            for _ in range(_ROUNDS):
                gone, new = self._changes()
                self._forget(gone)
                findings = self._look(reader)
                found |= findings.written
                unsure |= findings.unsure or unsure
                for loss in findings.losses:
                    self._forget(Regions.span(loss.extent.start, loss.extent.end, page_size=self.space.page_size))
                found |= self._cover(new)
                if not findings.losses:
                    break
        except NoSuchProcess:
            # It has exited meanwhile; what was found belongs to everybody's last answer.
            for other in self._readers:
                other.told(found, unsure)
            raise
        for other in self._readers:
            if other is not reader:
                other.told(found, unsure)
        return Findings(found, unsure=unsure)

    def _follow_exec(self) -> None:
        """The process has executed another program, whose memory is all new; or has exited (NoSuchProcess)."""
        from ..process.attach import TracedSpace

        space = TracedSpace(self.space.pid)
        if space.start_time != self.space.start_time:
            space.close()
            raise NoSuchProcess(f"process {self.space.pid} has exited", pid=self.space.pid)
        try:
            engine, _ = open_engine(space, self.engine.name)
        except BaseException:
            space.close()
            raise
        space.adopted[:0] = self.space.adopted
        self.engine.close()
        self.space.close()
        self.engine, self.space = engine, space
        self.pages, self.extents = Regions.empty(page_size=space.page_size), []
        self._stale = True
        self.untracked.clear()
        for reader in self._readers:
            reader.pending = reader.unsure = Regions.empty(page_size=space.page_size)
            reader.epoch += 1

    def _changes(self) -> tuple[Regions, Regions]:
        """What is covered and no longer mapped (or wanted), and what is mapped, wanted and not covered."""
        size = self.space.page_size
        now = self.space.mappings()
        if now is self._now and not self._stale:
            return Regions.empty(page_size=size), Regions.empty(page_size=size)
        self._now, self._stale = now, False
        wanted = ((m.start, m.end) for m in now if m.writable and m.name not in _NEVER and self._wanted(m))
        mapped = Regions.from_pairs(wanted, page_size=size)
        refused = Regions.from_pairs(self.untracked, page_size=size)
        self.engine.bridges = find_bridges(self.extents, now)
        return self.pages - mapped, mapped - self.pages - refused

    def _cover(self, pages: Regions, *, arm: bool = False) -> Regions:
        """Cover these pages, mapping by mapping; returns all that they hold, unless they are armed first."""
        covered = [extent for mapping, part in _parts(self._now, pages) if (extent := self._cover_one(mapping, part))]
        self.extents = sorted([*self.extents, *covered], key=lambda extent: extent.start)
        self.pages |= Regions.from_pairs(((e.start, e.end) for e in covered), page_size=self.space.page_size)
        self.engine.bridges = find_bridges(self.extents, self._now) if covered else self.engine.bridges
        if arm:
            self.engine.arm(covered, "scan")
            return Regions.empty(page_size=self.space.page_size)
        findings = self.engine.take(covered)
        for loss in findings.losses:  # unmapped again already
            self._forget(Regions.span(loss.extent.start, loss.extent.end, page_size=self.space.page_size))
        return findings.written

    def _cover_one(self, mapping: Mapping, part: Region) -> Extent | None:
        """Register a part of a mapping; what cannot be is noted with the reason."""
        extent = process_extent(mapping, part.start, part.end, self.space.page_size)
        try:
            self.engine.cover([extent])
        except NoSuchProcess:
            raise
        except (PagescanError, OSError) as error:
            said = error.message if isinstance(error, PagescanError) else str(error)
            self.untracked[extent.start, extent.end] = mapping, said
            return None
        return extent

    def _forget(self, pages: Regions) -> None:
        if not pages:
            return
        self.engine.uncover(pages)
        self._stale = True
        for reader in self._readers:
            reader.epoch += 1
        self.pages -= pages
        self.extents = [
            replace(extent, start=part.start, end=part.end)
            for extent in self.extents
            for part in Regions.span(extent.start, extent.end, page_size=self.space.page_size) - pages
        ]
        self.untracked = {key: value for key, value in self.untracked.items() if not pages.clip(*key)}

    def close(self) -> None:
        with self._lock:
            if not self.closed:
                self.closed = True
                # Closing the descriptor unregisters everything at once.
                self.engine.close()
                self.space.close()


def _parts(mappings: Sequence[Mapping], pages: Regions) -> Iterator[tuple[Mapping, Region]]:
    """The pages by the mapping they lie in."""
    if pages:
        for mapping in mappings:
            for part in pages.clip(mapping.start, mapping.end):
                yield mapping, part


def chooser(chosen: Chosen) -> Callable[[Mapping], bool]:
    """What ``mappings=`` means, as a function: whether a mapping is chosen."""
    if chosen is None:
        return lambda mapping: True
    if callable(chosen):
        return chosen
    patterns = [chosen] if isinstance(chosen, str) else list(chosen)
    return lambda mapping: any(
        fnmatch.fnmatchcase(mapping.name, pattern) or fnmatch.fnmatchcase(os.path.basename(mapping.name), pattern)
        for pattern in (p.replace("[", "[[]") for p in patterns)
    )


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise NoSuchProcess(f"process {pid} has exited", pid=pid) from None
    except PermissionError:
        raise AccessDenied(f"process {pid} may not be sent {number.name}", hint="sudo", pid=pid) from None


def _all_stopped(pid: int) -> bool:
    from ..kernel import procfs

    try:
        return all(procfs.read_stat(int(tid)).state in "TtZX" for tid in os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, NoSuchProcess):
        raise NoSuchProcess(f"process {pid} has exited", pid=pid) from None
