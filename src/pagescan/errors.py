"""Every error that pagescan raises on purpose.

::

    PagescanError
    ├── InvalidArgument (ValueError)          the call cannot be: alignment, unknown bits, a bad range
    │   ├── NotContiguous                     an array whose bytes are not one C-contiguous run
    │   └── UnknownCategory                   a mask asks about a category this kernel does not know
    ├── NotABuffer (TypeError)                the object has no memory that pagescan could look at
    ├── Closed (ValueError)                   a tracker, cursor or descriptor was used after close()
    ├── NoSuchProcess (ProcessLookupError)    the process is gone, or never was
    ├── AccessDenied (PermissionError)        a permission is missing; the hint names the command that grants it
    ├── KernelCannot (OSError)                this kernel, or its configuration, has no such feature
    ├── NotWriteProtectable (PermissionError) WRITTEN was asked of memory that is not write-protected asynchronously
    │   └── DroppableMemory                   it never can be: the kernel may empty it at any moment (MAP_DROPPABLE)
    ├── RegisteredElsewhere (OSError)         another userfaultfd owns the memory (EBUSY)
    ├── CoverageLost (RuntimeError)           tracked memory was moved, unmapped or unregistered
    ├── DataCorrupt (ValueError)              a file of pagescan's is damaged, or is none; names the part
    ├── AlreadyExists (FileExistsError)       a file is there, and files are never overwritten unasked
    ├── VersionConflict (RuntimeError)        a store's newest version is not the one that this writer builds on
    ├── NoSuchVersion (LookupError)           a store has no such series or version
    ├── StoreUnavailable (ConnectionError)    object storage cannot be reached, or does not answer as it should
    ├── NoProgress (RuntimeError)             the kernel would return the same position for ever
    └── MissingExtra (ImportError)            an optional dependency is not installed; the hint is the pip line

Each says what was asked, why it cannot be, and (``hint``) how to mend it.
"""

from __future__ import annotations


class PagescanError(Exception):
    """Base of every error of this package.

    Attributes:
        message: what was asked and why it cannot be.
        hint: how to mend it, or ``None``.
        pid: the process concerned, or ``None``.
        errno: the kernel's error number, or ``None``.
    """

    message: str
    hint: str | None
    pid: int | None
    errno: int | None

    def __init__(self, message: str, *, hint: str | None = None, pid: int | None = None, errno: int | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.pid = pid
        self.errno = errno

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class InvalidArgument(PagescanError, ValueError):
    """The call cannot be carried out as written; nothing was done."""


class NotContiguous(InvalidArgument):
    """The array's bytes are not one C-contiguous run of memory."""


class UnknownCategory(InvalidArgument):
    """A mask asks about a page category that this kernel does not know."""


class NotABuffer(PagescanError, TypeError):
    """The object exposes no memory of this process."""


class Closed(PagescanError, ValueError):
    """The object was closed; it can no longer answer."""


class NoSuchProcess(PagescanError, ProcessLookupError):
    """The process does not exist, or has exited."""


class AccessDenied(PagescanError, PermissionError):
    """The kernel refused access; ``hint`` is the one command that grants it."""


class KernelCannot(PagescanError, OSError):
    """The running kernel lacks the feature, or was built or configured without it."""


class NotWriteProtectable(PagescanError, PermissionError):
    """WRITTEN was asked of, or write protection asked for, memory that no userfaultfd holds in asynchronous mode.

    The kernel's EPERM under ``PM_SCAN_CHECK_WPASYNC``.
    """


class DroppableMemory(NotWriteProtectable):
    """Memory that the kernel may empty at any moment (MAP_DROPPABLE), and lets nobody track."""


class RegisteredElsewhere(PagescanError, OSError):
    """Another userfaultfd has the memory registered (EBUSY); only one may."""


class CoverageLost(PagescanError, RuntimeError):
    """Part of the tracked memory is no longer tracked, so pages written meanwhile are unknown.

    Attributes:
        start: first byte that is no longer covered (address), or ``None`` if everything is.
        end: one past the last such byte, or ``None``.
    """

    def __init__(
        self,
        message: str,
        *,
        start: int | None = None,
        end: int | None = None,
        hint: str | None = None,
        pid: int | None = None,
        errno: int | None = None,
    ):
        super().__init__(message, hint=hint, pid=pid, errno=errno)
        self.start = start
        self.end = end


class DataCorrupt(PagescanError, ValueError):
    """Stored data are damaged, or are not what they should be. What is not damaged can still be read.

    Attributes:
        sample: the number of the damaged sample of a recording, or ``None``.
        column: the damaged column of it, or ``None``.
        series: the series in a store whose version is damaged, or ``None``.
        version: the number of that version, or ``None``.
        buffer: the name of the damaged buffer in it, or ``None`` if it is all of them.
    """

    def __init__(
        self,
        message: str,
        *,
        sample: int | None = None,
        column: str | None = None,
        series: str | None = None,
        version: int | None = None,
        buffer: str | None = None,
        hint: str | None = None,
        pid: int | None = None,
        errno: int | None = None,
    ):
        super().__init__(message, hint=hint, pid=pid, errno=errno)
        self.sample = sample
        self.column = column
        self.series = series
        self.version = version
        self.buffer = buffer


class AlreadyExists(PagescanError, FileExistsError):
    """A file of that name exists (or is being written to); nothing is overwritten unasked."""


class VersionConflict(PagescanError, RuntimeError):
    """The newest version in the store is not the one that this writer builds on; nothing was written."""


class NoSuchVersion(PagescanError, LookupError):
    """The store has no series of that name, or no version of that number."""


class StoreUnavailable(PagescanError, ConnectionError):
    """Object storage cannot be reached, or does not answer as it should. What was due is still due."""


class NoProgress(PagescanError, RuntimeError):
    """A scan call neither returned regions nor advanced; looping on it would never end."""


class MissingExtra(PagescanError, ImportError):
    """An optional dependency is missing; ``hint`` is the pip command that installs it."""
