"""Reports as pictures."""

from __future__ import annotations

import struct
import sys

import pytest

from pagescan.errors import MissingExtra
from pagescan.reports import REPORTS, Wishes
from pagescan.reports.png import _heat, png_image


@pytest.mark.parametrize("kind", REPORTS)
@pytest.mark.parametrize("which", ["workload", "empty"])
def test_picture(request, kind, which):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    image = png_image(request.getfixturevalue(which), Wishes(), kind)
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", image[16:24]) == (1440, 840)


def test_heat_map_shows_what_was_written(tiny):
    """The hot page is dark over its whole length but for the third quarter, in which nothing was written."""
    figure = pytest.importorskip("matplotlib.figure", reason="matplotlib is not installed")
    axes = figure.Figure().subplots()
    _heat(axes, tiny, Wishes())
    (mesh,) = axes.collections
    assert mesh.get_array().filled(-1).tolist() == [[1, 1, -1, 1], [1, -1, -1, 1], [-1, 1, -1, -1]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["[heap]\n0x10000", "/srv/file\n0x7f0000000000"]


def test_without_matplotlib_the_pip_line_is_named(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra) as caught:
        png_image(tiny, Wishes(), "heatmap")
    assert caught.value.hint == "pip install 'pagescan[png]'"
