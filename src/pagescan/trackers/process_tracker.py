"""Another process tracked from outside: :func:`attach`, :func:`spawn`, and what they give."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

from ..errors import InvalidArgument, NoSuchProcess
from .family import Family
from .following import Following
from .mapping_quality import MappingQuality, judge_mappings

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from ..abi import FollowedSpace, Mapping, ProcessFacts
    from ..process.freeze import Freezer
    from ..process.spawn import Spawned
    from ..ranges import Regions
    from .base import Hot
    from .changed import Changed
    from .written import Written

#: What ``mappings=`` may be: name patterns, a function, or nothing for every mapping that can be written to.
Chosen = str | Iterable[str] | Callable[["Mapping"], bool] | None


def attach(
    target: int | str | FollowedSpace,
    *,
    mappings: Chosen = None,
    engine: str = "auto",
    hot: Hot = "protect",
    freeze: bool = False,
    follow_forks: bool = False,
) -> ProcessTracker:
    """Track a live process that knows nothing of it: which of its pages are written to from now on.

    One of its threads stands still for a fraction of a millisecond (``tracker.pause_ns``), while the process makes a
    userfaultfd on our behalf; nothing of it stays behind, and it is not stopped again. If this process dies, the
    target goes on unharmed.

    Args:
        target: a pid; or the path of the Unix socket on which a process called :func:`pagescan.share`; or a process
            of the model.
        mappings: which mappings: a name pattern or several (``"[heap]"``, ``"*.so*"``), or a function of a
            :class:`Mapping`. By default all that can be written to.
        engine: ``"auto"`` takes ``"pagemap-scan"``; where that cannot be had (a seccomp filter, a debugger, a 32-bit
            program) ``"compare"``, which does nothing to the process, but reads its memory at each look and keeps a
            copy of it, or digests. Or one of these, or ``"pagemap-read"``, by name. ``tracker.engine`` and
            ``tracker.why`` tell.
        hot: ``"exempt"`` leaves memory that is written to in nearly every interval unprotected, as in :func:`track`.
        freeze: hold the process still during each ``take``, ``peek`` and ``read``, and during the whole body of
            ``taking``, so that what is read is of one moment. See :meth:`ProcessTracker.frozen`.
        follow_forks: track its descendants as well, each by a tracker of its own: ``tracker.children`` and
            ``tracker.take_all()``. They are looked for when something is taken; one that is new is named in full.

    Raises NoSuchProcess, AccessDenied (with the one command that mends it), KernelCannot. All is checked before
    anything is touched.
    """
    if follow_forks and not isinstance(target, (int, str)):
        raise InvalidArgument("forks are followed on Linux only", hint="attach to each process of the model")
    return ProcessTracker(
        _followed(target), mappings=mappings, engine=engine, hot=hot, freeze=freeze, follow_forks=follow_forks
    )


def _followed(target: int | str | FollowedSpace) -> FollowedSpace:
    if not isinstance(target, (int, str)):
        return target
    from ..process.attach import TracedSpace
    from ..process.share import connect

    if isinstance(target, str):
        adopted = connect(target)
        return TracedSpace(adopted.pid, ready=adopted)
    if target == os.getpid():
        raise InvalidArgument("a process does not attach to itself", hint="track buffers: pagescan.track(array)")
    return TracedSpace(target)


def spawn(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: dict[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    mappings: Chosen = None,
    hot: Hot = "protect",
    freeze: bool = False,
    follow_forks: bool = False,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
) -> ProcessTracker:
    """Start a program tracked from before its first instruction; ``tracker.popen`` is the process.

    Arguments as for :class:`subprocess.Popen` and for :func:`attach`; errors as :func:`attach`, and InvalidArgument for
    a program that cannot be executed.
    """
    from ..process.spawn import spawn_stopped

    started = spawn_stopped(argv, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr)
    try:
        tracker = ProcessTracker(
            started.space, mappings=mappings, hot=hot, spawned=started, freeze=freeze, follow_forks=follow_forks
        )
        started.start()
    except BaseException:
        started.kill()
        raise
    return tracker


def _freezer(space: FollowedSpace) -> Freezer | None:
    """What holds the process still; nothing for one that stands still anyway."""
    if not space.runs_by_itself:
        return None
    from ..process.freeze import Freezer

    return Freezer(space.pid)


class ProcessCursor:
    """A reader of a tracked process with its own "since I last asked"; made by :meth:`ProcessTracker.cursor`."""

    def __init__(self, following: Following, still: Callable[[], AbstractContextManager[object]]):
        self._following = following
        self._still = still
        self._reader = following.new_reader()

    def take(self) -> Written:
        """The pages the process has written to since this reader last asked; they are protected again.

        Mappings that are new are reported with all they hold. After the process has exited one last answer has what
        was known (quality LOST); then NoSuchProcess.
        """
        with self._still():
            return self._following.look(self._reader, take=True)

    def peek(self) -> Written:
        """What :meth:`take` would answer of the mappings covered so far; nothing changes."""
        with self._still():
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
        with self._still():
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
        untracked: mappings that could be written to but cannot be tracked, with the reason. What is no state of the
            process ([vvar], droppable memory) is in none of the two.
        children: with ``follow_forks``, the trackers of its descendants, as of the last look.
        refused: with ``follow_forks``, the pids of descendants that cannot be tracked, with the reason.
    """

    def __init__(
        self,
        space: FollowedSpace,
        *,
        mappings: Chosen = None,
        engine: str = "auto",
        hot: Hot = "protect",
        spawned: Spawned | None = None,
        freeze: bool = False,
        follow_forks: bool = False,
        forked: bool = False,
    ):
        """``forked``: nothing is known of its memory so far, so the first answer names all that it holds."""
        self.pid = space.pid
        self.popen = spawned.popen if spawned else None
        self._freezer = _freezer(space)
        self._family: Family | None = None
        try:
            following = Following(space, chooser(mappings), engine, hot, arm=not forked)
            super().__init__(following, self._held if freeze else contextlib.nullcontext)
        except BaseException:
            space.close()
            raise
        if follow_forks:
            how: dict[str, Any] = {"mappings": mappings, "engine": engine, "hot": hot, "freeze": freeze}
            self._family = Family(self.pid, lambda pid: ProcessTracker(_followed(pid), forked=True, **how))
            self._family.look()

    @property
    def pause_ns(self) -> int:
        return self._following.space.pause_ns

    @property
    def space(self) -> FollowedSpace:
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

    @property
    def facts(self) -> ProcessFacts:
        """What a recording says of the process."""
        return self._following.space.facts

    def cursor(self) -> ProcessCursor:
        """An independent reader, from now on."""
        return ProcessCursor(self._following, self._still)

    def mappings(self) -> Sequence[Mapping]:
        """The mappings of the process now, by address."""
        return self._following.space.mappings()

    def qualities(self) -> list[MappingQuality]:
        """How good answers about each mapping can be, and why; also those that are not tracked. By address.

        Reads ``/proc/PID/smaps``, for which the kernel walks all page tables: some milliseconds for each GiB in use.
        """
        if not self.space.runs_by_itself:
            raise InvalidArgument(f"{self.space.label} has no /proc to read this from")
        from ..kernel import procfs

        return judge_mappings(procfs.list_smaps(self.pid), self.pages, self.untracked)

    def read(self, regions: Regions) -> NDArray[np.uint8]:
        """The bytes of the regions now, one after another. For contents of one moment see :meth:`frozen`."""
        with self._still():
            return self._following.space.read(regions)

    # Descendants ----------------------------------------------------------------------------------------------------

    @property
    def children(self) -> list[ProcessTracker]:
        return list(self._family.trackers.values()) if self._family else []

    @property
    def refused(self) -> dict[int, str]:
        return dict(self._family.refused) if self._family else {}

    def take(self) -> Written:
        """:meth:`ProcessCursor.take` of this process; with ``follow_forks`` new descendants are looked for first."""
        if self._family:
            self._family.look()
        return super().take()

    def take_all(self) -> dict[int, Written]:
        """:meth:`take` of this process and of each descendant that is followed, by pid.

        Addresses mean another memory in each, so the answers are not merged. A descendant that is new is named in full,
        with quality SUPERSET; one that has exited gives its last answer (LOST), and is followed no longer. Raises
        NoSuchProcess once all have exited.
        """
        try:
            answers = {self.pid: self.take()}
        except NoSuchProcess:
            if not self.children:
                raise
            answers = {}
        return answers | (self._family.take() if self._family else {})

    # Standing still -------------------------------------------------------------------------------------------------

    def frozen(self, timeout: float = 2.0) -> AbstractContextManager[None]:
        """A block during which the process stands still; it goes on afterwards whatever happens in it.

        By its control group where that holds this process alone and may be frozen (nobody is told of it), else by
        SIGSTOP and SIGCONT. If this process is killed meanwhile, a guardian process lets it go on. One that was stopped
        already stays so. Raises KernelCannot if it does not stand still within ``timeout`` seconds.
        """
        return self._freezer.frozen(timeout) if self._freezer else contextlib.nullcontext()

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """As :meth:`frozen`, also where there is nobody left to freeze."""
        self._following.catch_up()  # a frozen process cannot be attached to again
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(NoSuchProcess):
                stack.enter_context(self.frozen())
            yield

    def detach(self) -> None:
        """Stop tracking; the process goes on. Unprotecting its memory takes the kernel some 9 ms for each GiB."""
        if self._family:
            self._family.close()
        self._following.close()
        if self._freezer:
            self._freezer.close()

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
