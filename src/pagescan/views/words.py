"""How the live view writes amounts in few characters."""

from __future__ import annotations

_UNITS = "BKMGTPE"


def brief(size: float) -> str:
    """Bytes in at most five characters, in units of 1024: ``0``, ``512``, ``4K``, ``1.5M``, ``132M``."""
    number, unit = float(round(size)), 0
    while number >= 999.5 and unit + 1 < len(_UNITS):
        number, unit = number / 1024, unit + 1
    if not unit:
        return f"{number:.0f}"
    digits = 0 if number >= 9.95 or number == int(number) else 1
    return f"{number:.{digits}f}{_UNITS[unit]}"


def percent(share: float) -> str:
    """``2.1 %``."""
    return f"{100 * share:.1f} %"
