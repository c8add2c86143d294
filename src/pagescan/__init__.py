"""pagescan: what the page tables know of your memory, and which pages have been written to since you last asked.

Four levels, each built on the one below:

1. :func:`pagemap_scan`: one ``PAGEMAP_SCAN`` call, with the documented operations and masks;
2. :func:`scan`: a whole range, buffer or process, walked to its end;
3. :func:`track`: "written since I last asked" for buffers of this process;
4. the command ``pagescan``.

Names are loaded when they are first used: ``import pagescan`` imports neither numpy nor anything of the kernel.
"""

from __future__ import annotations

import importlib

# Not from typing, which would be most of the time that `import pagescan` takes; type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .cow import CowMeter as CowMeter
    from .cow import CowSample as CowSample
    from .cow import cow_meter as cow_meter
    from .errors import AccessDenied as AccessDenied
    from .errors import AlreadyExists as AlreadyExists
    from .errors import Closed as Closed
    from .errors import CoverageLost as CoverageLost
    from .errors import DataCorrupt as DataCorrupt
    from .errors import DroppableMemory as DroppableMemory
    from .errors import InvalidArgument as InvalidArgument
    from .errors import KernelCannot as KernelCannot
    from .errors import MissingExtra as MissingExtra
    from .errors import NoProgress as NoProgress
    from .errors import NoSuchProcess as NoSuchProcess
    from .errors import NoSuchVersion as NoSuchVersion
    from .errors import NotABuffer as NotABuffer
    from .errors import NotContiguous as NotContiguous
    from .errors import NotWriteProtectable as NotWriteProtectable
    from .errors import PagescanError as PagescanError
    from .errors import RegisteredElsewhere as RegisteredElsewhere
    from .errors import StoreUnavailable as StoreUnavailable
    from .errors import UnknownCategory as UnknownCategory
    from .errors import VersionConflict as VersionConflict
    from .kernel.pagemap import Pagemap as Pagemap
    from .process.allocate import empty as empty
    from .process.allocate import zeros as zeros
    from .process.process import Process as Process
    from .process.share import share as share
    from .query import Category as Category
    from .query import Op as Op
    from .query import Query as Query
    from .ranges import Region as Region
    from .ranges import Regions as Regions
    from .recording.reader import Recording as Recording
    from .rollback import Mark as Mark
    from .rollback import ProcessMark as ProcessMark
    from .rollback import mark as mark
    from .scanning.call import pagemap_scan as pagemap_scan
    from .scanning.call import prepare_scan as prepare_scan
    from .scanning.prepared import PreparedScan as PreparedScan
    from .scanning.result import Scan as Scan
    from .scanning.walk import scan as scan
    from .snapshots.commit import Prepared as Prepared
    from .snapshots.series import Series as Series
    from .snapshots.store import Store as Store
    from .snapshots.store import open_store as open_store
    from .snapshots.version import Version as Version
    from .trackers.changed import Changed as Changed
    from .trackers.mapping_quality import MappingQuality as MappingQuality
    from .trackers.process_tracker import ProcessTracker as ProcessTracker
    from .trackers.process_tracker import attach as attach
    from .trackers.process_tracker import spawn as spawn
    from .trackers.stats import Stats as Stats
    from .trackers.tracker import Cursor as Cursor
    from .trackers.tracker import Tracker as Tracker
    from .trackers.tracker import track as track
    from .trackers.written import Quality as Quality
    from .trackers.written import Written as Written
    from .trackers.wrote import Wrote as Wrote
    from .trackers.wrote import reports_writes as reports_writes
    from .trackers.wrote import wrote as wrote

__version__ = "0.1.0"

_HOME = {
    "AccessDenied": "errors",
    "AlreadyExists": "errors",
    "Category": "query",
    "Changed": "trackers.changed",
    "Closed": "errors",
    "CoverageLost": "errors",
    "CowMeter": "cow",
    "CowSample": "cow",
    "Cursor": "trackers.tracker",
    "DataCorrupt": "errors",
    "DroppableMemory": "errors",
    "InvalidArgument": "errors",
    "KernelCannot": "errors",
    "MappingQuality": "trackers.mapping_quality",
    "Mark": "rollback",
    "MissingExtra": "errors",
    "NoProgress": "errors",
    "NoSuchProcess": "errors",
    "NoSuchVersion": "errors",
    "NotABuffer": "errors",
    "NotContiguous": "errors",
    "NotWriteProtectable": "errors",
    "Op": "query",
    "Pagemap": "kernel.pagemap",
    "PagescanError": "errors",
    "Prepared": "snapshots.commit",
    "PreparedScan": "scanning.prepared",
    "Process": "process.process",
    "ProcessMark": "rollback",
    "ProcessTracker": "trackers.process_tracker",
    "Quality": "trackers.written",
    "Query": "query",
    "Region": "ranges",
    "Regions": "ranges",
    "Recording": "recording.reader",
    "RegisteredElsewhere": "errors",
    "Scan": "scanning.result",
    "Series": "snapshots.series",
    "Stats": "trackers.stats",
    "Store": "snapshots.store",
    "StoreUnavailable": "errors",
    "Tracker": "trackers.tracker",
    "UnknownCategory": "errors",
    "Version": "snapshots.version",
    "VersionConflict": "errors",
    "Written": "trackers.written",
    "Wrote": "trackers.wrote",
    "attach": "trackers.process_tracker",
    "cow_meter": "cow",
    "empty": "process.allocate",
    "mark": "rollback",
    "open_store": "snapshots.store",
    "pagemap_scan": "scanning.call",
    "prepare_scan": "scanning.call",
    "reports_writes": "trackers.wrote",
    "scan": "scanning.walk",
    "share": "process.share",
    "spawn": "trackers.process_tracker",
    "track": "trackers.tracker",
    "wrote": "trackers.wrote",
    "zeros": "process.allocate",
}

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "Category",
    "Changed",
    "Closed",
    "CoverageLost",
    "CowMeter",
    "CowSample",
    "Cursor",
    "DataCorrupt",
    "DroppableMemory",
    "InvalidArgument",
    "KernelCannot",
    "MappingQuality",
    "Mark",
    "MissingExtra",
    "NoProgress",
    "NoSuchProcess",
    "NoSuchVersion",
    "NotABuffer",
    "NotContiguous",
    "NotWriteProtectable",
    "Op",
    "Pagemap",
    "PagescanError",
    "Prepared",
    "PreparedScan",
    "Process",
    "ProcessMark",
    "ProcessTracker",
    "Quality",
    "Query",
    "Recording",
    "Region",
    "Regions",
    "RegisteredElsewhere",
    "Scan",
    "Series",
    "Stats",
    "Store",
    "StoreUnavailable",
    "Tracker",
    "UnknownCategory",
    "Version",
    "VersionConflict",
    "Written",
    "Wrote",
    "__version__",
    "attach",
    "cow_meter",
    "empty",
    "mark",
    "open_store",
    "pagemap_scan",
    "prepare_scan",
    "reports_writes",
    "scan",
    "share",
    "spawn",
    "track",
    "wrote",
    "zeros",
]


_MODULES = ("errors", "model", "testing")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *_MODULES]
