"""Files: what Python's ``os`` does not have."""

from __future__ import annotations

import ctypes

from .memory import declare

_SYNC_FILE_RANGE_WRITE = 2  # include/uapi/linux/fs.h
_sync_file_range = declare("sync_file_range", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def start_writing(descriptor: int) -> None:
    """Have the kernel begin to write a file's changed pages to the disk, and do not wait for it.

    A hint, which makes a later ``fsync`` shorter and promises nothing by itself: an error is that one's to report
    (``sync_file_range(SYNC_FILE_RANGE_WRITE)``, Linux 2.6.17; ``fs/sync.c``).
    """
    _sync_file_range(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)
