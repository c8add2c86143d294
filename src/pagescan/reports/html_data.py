"""The heat map as the page reads it: small, and exact."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from .grid import fine_heat
from .words import cut, span_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .base import Wishes
    from .material import Material

_MAX_COLUMNS = 1200
_MAX_ROWS = 2048
_NAME = 160


def heat_data(material: Material, wishes: Wishes, cells: int) -> dict[str, Any]:
    """The heat map of at most so many cells.

    ``times`` are milliseconds from the start, one more than columns; ``samples`` samples a column. Of the rows: first
    and one past the last page *number*, pages, height in the picture, and index into ``names``. ``cells`` are written
    pages, row by row, as little-endian numbers in byte planes (all lowest bytes first), zlib, base64.
    """
    series = material.series
    columns = max(1, min(wishes.columns or _MAX_COLUMNS, _MAX_COLUMNS, len(series)))
    rows = max(1, min(wishes.rows or _MAX_ROWS, _MAX_ROWS, cells // columns))
    # Half the cells, and so on: both directions give way.
    columns = max(1, min(columns, cells // 128))
    found, heights = fine_heat(series, rows, columns)
    names: dict[str, int] = {}
    owners = [
        names.setdefault(_described(material, span), len(names)) for span in found.rows.spans.tolist()
    ]  # in the order of appearance
    planes, text = packed(found.pages)
    return {
        "page_size": material.page_size,
        "times": np.round((found.columns.edges - series.edges[0]) / 1e6, 3).tolist(),
        "samples": np.diff(found.columns.samples).tolist(),
        "low": found.rows.low.tolist(),
        "high": found.rows.high.tolist(),
        "pages": found.rows.pages.tolist(),
        "heights": np.round(heights, 5).tolist(),
        "owners": owners,
        "names": list(names),
        "planes": planes,
        "cells": text,
    }


def _described(material: Material, span: int) -> str:
    """Name and permissions of a mapping."""
    spans = material.series.spans
    perms = f" {spans[span][0].perms}" if span >= 0 else ""
    return cut(span_label(spans, span), _NAME) + perms


def packed(values: NDArray[np.int64]) -> tuple[int, str]:
    """How many byte planes, and the planes compressed."""
    width = max(1, -(-int(values.max(initial=0)).bit_length() // 8))
    octets = values.astype("<u8").reshape(-1, 1).view(np.uint8)[:, :width]
    return width, base64.b64encode(zlib.compress(np.ascontiguousarray(octets.T).tobytes(), 9)).decode()
