"""Sizes, addresses, durations and counts: read from text, and written as text.

Sizes are binary throughout, as in ``/proc``: K, KB and KiB are all 1024 bytes. Whatever is parsed becomes an exact
integer in the base unit (bytes, nanoseconds); text that is no whole number of them is refused, never rounded.
What is printed may be rounded, and then shows a decimal: "4 MiB" is exact, "4.0 MiB" is not.

Parsers raise :class:`InvalidArgument`, which says what is accepted.
"""

from __future__ import annotations

import re
from fractions import Fraction

from .errors import InvalidArgument

#: No address, and no size, reaches this (addresses are unsigned 64-bit numbers).
ADDRESS_LIMIT = 1 << 64

NANOSECOND = 1
MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_SIZE_LETTERS = "kmgtpe"
_BINARY_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_DURATIONS = {
    "ns": NANOSECOND,
    "us": MICROSECOND,
    "\N{MICRO SIGN}s": MICROSECOND,
    "\N{GREEK SMALL LETTER MU}s": MICROSECOND,
    "ms": MILLISECOND,
    "s": SECOND,
    "": SECOND,
    "m": MINUTE,
    "min": MINUTE,
    "h": HOUR,
    "d": DAY,
}
_NUMBER = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?|\.[0-9]+)\s*([^\W\d_]*)", re.ASCII | re.IGNORECASE)
_DURATION = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?|\.[0-9]+)\s*(\D*)")
_INTEGER = re.compile(r"0x[0-9a-f]+(?:_[0-9a-f]+)*|[0-9]+(?:_[0-9]+)*", re.IGNORECASE | re.ASCII)

_SIZE_HINT = "give bytes (4096, 0x1000) or a number with K, M, G, T, P or E, in powers of 1024: 64KiB, 1.5G, 2M"
_ADDRESS_HINT = "give a hexadecimal address with 0x (0x7f0000001000) or a decimal one"
_RANGE_HINT = "give START-END (END exclusive) or START+SIZE: 0x7f00-0x7fff, 0x1000+64KiB"
_DURATION_HINT = "give a number with ns, us, ms, s, m, h or d: 100ms, 1.5s, 2m; a bare number is seconds"


def parse_size(text: str) -> int:
    """Bytes from ``"4096"``, ``"0x1000"``, ``"64KiB"``, ``"1.5G"``, ``"2M"``; units are powers of 1024."""
    word = text.strip()
    if _INTEGER.fullmatch(word):
        return _below_limit(int(word, 0 if word[:2].lower() == "0x" else 10), text)
    found = _NUMBER.fullmatch(word)
    scale = _size_scale(found[2].lower()) if found else None
    if found is None or scale is None:
        raise InvalidArgument(f"{text!r} is no size", hint=_SIZE_HINT)
    return _below_limit(_whole(found[1], scale, text, "bytes", _SIZE_HINT), text)


def parse_address(text: str) -> int:
    """An address from ``"0x7f0000001000"`` or a decimal number. Hexadecimal needs its 0x: "1000" would be either."""
    word = text.strip()
    if not _INTEGER.fullmatch(word):
        raise InvalidArgument(f"{text!r} is no address", hint=_ADDRESS_HINT)
    return _below_limit(int(word, 16 if word[:2].lower() == "0x" else 10), text)


def parse_range(text: str) -> tuple[int, int]:
    """A half-open range of addresses, never empty: ``"0x7f00-0x7fff"`` or ``"0x1000+64KiB"`` gives (start, end)."""
    first, sign, second = re.fullmatch(r"([^-+]*)([-+]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if not sign:
        raise InvalidArgument(f"{text!r} is no range of addresses", hint=_RANGE_HINT)
    start = parse_address(first)
    end = start + parse_size(second) if sign == "+" else parse_address(second)
    if end <= start:
        raise InvalidArgument(f"the range {text!r} is empty: its end does not lie after its start", hint=_RANGE_HINT)
    return start, _below_limit(end, text)


def parse_duration(text: str) -> int:
    """Nanoseconds from ``"100ms"``, ``"1.5s"``, ``"2m"``, ``"1h"``; a bare number is seconds."""
    found = _DURATION.fullmatch(text.strip())
    scale = _DURATIONS.get(found[2].strip().lower()) if found else None
    if found is None or scale is None:
        raise InvalidArgument(f"{text!r} is no duration", hint=_DURATION_HINT)
    return _whole(found[1], scale, text, "nanoseconds", _DURATION_HINT)


def format_size(size: int) -> str:
    """``"512 bytes"``, ``"4 KiB"``, ``"1.5 MiB"``. Below 1 KiB exact; above, a decimal unless whole."""
    if size < 0:
        return f"-{format_size(-size)}"
    if size < 1024:
        return format_count(size, "byte")
    power = min((size.bit_length() - 1) // 10, len(_BINARY_UNITS) - 1)
    # 1,048,575 bytes would print as 1024.0 KiB.
    if power + 1 < len(_BINARY_UNITS) and round(size / 1024**power, 1) >= 1024:
        power += 1
    whole, rest = divmod(size, 1024**power)
    number = f"{whole:,}" if rest == 0 else f"{size / 1024**power:,.1f}"
    return f"{number} {_BINARY_UNITS[power]}"


def format_address(address: int) -> str:
    """``"0x7f0000001000"``."""
    return f"{address:#x}"


def format_range(start: int, end: int) -> str:
    """``"0x1000-0x3000"``, which :func:`parse_range` reads back."""
    return f"{start:#x}-{end:#x}"


def format_duration(nanoseconds: int) -> str:
    """Three digits in the unit that suits: ``"950 ns"``, ``"12.3 us"``, ``"1.20 ms"``; above a minute ``"2m 05s"``."""
    if nanoseconds < 0:
        return f"-{format_duration(-nanoseconds)}"
    if nanoseconds < MICROSECOND:
        return f"{nanoseconds} ns"
    for unit, scale, limit in (("us", MICROSECOND, 1000), ("ms", MILLISECOND, 1000), ("s", SECOND, 60)):
        number = _three_digits(nanoseconds / scale)
        if float(number) < limit:
            return f"{number} {unit}"
    seconds = (nanoseconds + SECOND // 2) // SECOND
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60:02}s"
    return f"{seconds // 3600}h {seconds % 3600 // 60:02}m"


def format_count(count: int, noun: str, plural: str | None = None) -> str:
    """``"1 page"``, ``"1,024 pages"``; ``plural`` where adding an s will not do."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def _size_scale(unit: str) -> int | None:
    """The factor of a lower-case unit of size, or None if it is no unit."""
    if unit in ("", "b", "byte", "bytes"):
        return 1
    if unit[0] in _SIZE_LETTERS and unit[1:] in ("", "b", "ib"):
        return int(1024 ** (_SIZE_LETTERS.index(unit[0]) + 1))
    return None


def _whole(number: str, scale: int, text: str, what: str, hint: str) -> int:
    value = Fraction(number.replace("_", "")) * scale
    if value.denominator != 1:
        raise InvalidArgument(f"{text!r} is no whole number of {what}", hint=hint)
    return int(value)


def _below_limit(value: int, text: str) -> int:
    if value >= ADDRESS_LIMIT:
        raise InvalidArgument(f"{text!r} lies beyond 64-bit addresses", hint="addresses end at 0xffffffffffffffff")
    return value


def _three_digits(number: float) -> str:
    """1.20, 12.3 or 123, whichever the number still is after rounding."""
    for decimals, limit in ((2, 10), (1, 100)):
        text = f"{number:.{decimals}f}"
        if float(text) < limit:
            return text
    return f"{number:.0f}"
