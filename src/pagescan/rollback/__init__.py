"""Memory put back to how it was: a mark remembers contents once, and then copies only what was written to.

``copies``: the bytes of one range as they were, and moving pages of it either way; ``buffers``: marks of buffers of
this process (or of the model); ``process``: a mark of another process's memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from ..errors import InvalidArgument
from ..trackers.process_tracker import ProcessTracker
from .buffers import Mark as Mark
from .process import ProcessMark as ProcessMark

if TYPE_CHECKING:
    from ..trackers.process_tracker import Chosen


@overload
def mark(target: ProcessTracker, /, *, mappings: Chosen = None) -> ProcessMark: ...
@overload
def mark(*buffers: Any) -> Mark: ...
def mark(*targets: Any, mappings: Chosen = None) -> Mark | ProcessMark:
    """Remember the present contents, to put them back again and again by copying only the pages written to since.

    Args:
        targets: any number of writable buffers, as for :func:`pagescan.track`; or one :class:`ProcessTracker`, whose
            process is marked.
        mappings: of a process, which of the tracked mappings to mark: as for :func:`pagescan.attach`.

    The contents are copied once, so a mark takes as much memory as what is in use of the buffers. Marks of the same
    memory are independent of each other: restored or advanced in any order, each stays right.

    Nobody else may be writing meanwhile, or "the contents" mean nothing: have other threads wait at a barrier while
    a mark is made, restored or advanced. (A process is stopped for as long.)

    Raises InvalidArgument for a read-only buffer, or one of Python objects; and as :func:`pagescan.track` and
    :func:`pagescan.attach`.
    """
    processes = [target for target in targets if isinstance(target, ProcessTracker)]
    if processes:
        if len(targets) > 1:
            raise InvalidArgument("a mark is of one process, or of buffers", hint="make a mark for each")
        return ProcessMark(processes[0], mappings)
    if mappings is not None:
        raise InvalidArgument("mappings= chooses among those of a process", hint="pass the buffers themselves")
    return Mark(targets)
