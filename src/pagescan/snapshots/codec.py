"""How the pages of a frame are stored: not at all (zeros), as they are, or compressed with Zstandard."""

from __future__ import annotations

import importlib
import threading
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataCorrupt, MissingExtra

if TYPE_CHECKING:
    from .base import Piece


class Codec(IntEnum):
    """The number of a frame's codec in the file."""

    ZERO = 0  #: every page is all zeros; nothing is stored
    RAW = 1
    ZSTD = 2  #: one Zstandard frame (RFC 8878)


#: Zstandard's own level: 1 to 22. 1 costs least, and memory is mostly either easy or hopeless.
LEVEL = 1


#: Of more than so many bytes a sample is tried first: every 31st piece of 64 bytes, so from all over a page.
_SAMPLED, _PIECE, _EVERY = 16384, 64, 31
#: What has to be saved, at least: one byte of so many. Less is not worth what reading it costs.
_LEAST = 32
_of_thread = threading.local()


def encode(plain: Piece, level: int = LEVEL) -> tuple[Codec, Piece]:
    """Pages as bytes to store, compressed if that is possible here and makes them smaller, judged by a sample."""
    zstd = _zstd()
    if zstd is not None and (len(plain) <= _SAMPLED or _promising(zstd, plain, level)):
        packed: bytes = zstd.compress(plain, level)
        if _worth_it(packed, plain):
            return Codec.ZSTD, packed
    return Codec.RAW, plain


def _promising(zstd: Any, plain: Piece, level: int) -> bool:
    """Whether a sample is worth compressing. To try all of what is noise would take ten times as long."""
    sample = np.frombuffer(plain, np.uint8).reshape(-1, _PIECE)[::_EVERY].tobytes()
    if not hasattr(_of_thread, "compressor"):  # to make one takes longer than the sample
        _of_thread.compressor = zstd.ZstdCompressor(level)
    return _worth_it(_of_thread.compressor.compress(sample, zstd.ZstdCompressor.FLUSH_FRAME), sample)


def _worth_it(packed: bytes, plain: Piece) -> bool:
    return len(packed) <= len(plain) - len(plain) // _LEAST


def decode(codec: int, stored: bytes, size: int) -> bytes:
    """The reverse; ``size`` bytes, else DataCorrupt. Raises MissingExtra if zstd is needed and not there."""
    if codec == Codec.RAW:
        plain = stored
    elif codec == Codec.ZSTD:
        plain = _decompress(stored, size)
    else:
        raise DataCorrupt(f"a frame has the unknown codec {codec}")
    if len(plain) != size:
        raise DataCorrupt(f"a frame holds {len(plain)} bytes, and {size} were promised")
    return plain


def _decompress(stored: bytes, size: int) -> bytes:
    zstd = _zstd()
    if zstd is None:
        raise MissingExtra(
            "this store is compressed with Zstandard, which this Python cannot read",
            hint="pip install 'pagescan[zstd]'",
        )
    decompressor = zstd.ZstdDecompressor()
    try:
        # A damaged frame may claim any size: never make more than was promised, and one byte to see that it is more.
        plain: bytes = decompressor.decompress(stored, size + 1)
    except zstd.ZstdError as error:
        raise DataCorrupt(f"a frame cannot be decompressed: {error}") from error
    if not decompressor.eof:
        raise DataCorrupt("a compressed frame is cut off, or holds more than was promised")
    return plain


@cache
def _zstd() -> Any:
    """Python's Zstandard (3.14 and later), or its backport, or None."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None
