"""The system itself, executable: page tables, mappings, userfaultfd and ``PAGEMAP_SCAN`` in Python.

Everything above it takes a process of the model wherever it takes one of Linux::

    machine = Machine()
    process = machine.process()
    at = process.mmap(16 * 4096)
    process.write(at, b"x")

Where to look for a behaviour: ``faults`` (reads and writes), ``thp``, ``swap``, ``fork``, ``remap`` (mremap),
``advice`` (madvise), ``protect`` and ``userfaultfd``, ``scan`` with ``categories`` (what each page table entry is
called), ``scan_arguments`` and ``scan_output``; ``pages`` and ``vma`` hold the state; ``behaviour`` has what differs by
release. It has no droppable memory (``MAP_DROPPABLE``).
"""

from .advice import ADVICE
from .behaviour import BEHAVIOURS, BUGS, KERNEL_BUGS, Behaviour
from .buffer import Buffer
from .faults import BusError, FaultBlocks, SegmentationFault
from .machine import Machine
from .mm import KernelFailure
from .physical import File
from .process import Process
from .scan import Pagemap
from .userfaultfd import Userfaultfd

__all__ = [
    "ADVICE",
    "BEHAVIOURS",
    "BUGS",
    "KERNEL_BUGS",
    "Behaviour",
    "Buffer",
    "BusError",
    "FaultBlocks",
    "File",
    "KernelFailure",
    "Machine",
    "Pagemap",
    "Process",
    "SegmentationFault",
    "Userfaultfd",
]
