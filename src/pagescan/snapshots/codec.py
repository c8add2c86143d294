"""How the pages of a frame are stored: not at all (zeros), as they are, or compressed with Zstandard."""

from __future__ import annotations

import importlib
from enum import IntEnum
from functools import cache
from typing import Any

from ..errors import DataCorrupt, MissingExtra


class Codec(IntEnum):
    """The number of a frame's codec in the file."""

    ZERO = 0  #: every page is all zeros; nothing is stored
    RAW = 1
    ZSTD = 2  #: one Zstandard frame (RFC 8878)


#: Zstandard's own level: 1 to 22. 1 costs least, and memory is mostly either easy or hopeless.
LEVEL = 1


def encode(plain: bytes, level: int = LEVEL) -> tuple[Codec, bytes]:
    """Pages as bytes to store, compressed if that is possible here and makes them smaller."""
    zstd = _zstd()
    if zstd is not None:
        packed: bytes = zstd.compress(plain, level)
        if len(packed) < len(plain):
            return Codec.ZSTD, packed
    return Codec.RAW, plain


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
