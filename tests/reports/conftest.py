"""Recordings to report on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagescan.reports import Material

from .tiny import material, write_tiny
from .workload import write_workload


@pytest.fixture
def tiny(tmp_path: Path) -> Material:
    write_tiny(tmp_path / "tiny.pagescan")
    return material(tmp_path / "tiny.pagescan")


@pytest.fixture
def empty(tmp_path: Path) -> Material:
    """A recording that has just begun."""
    write_tiny(tmp_path / "empty.pagescan", samples=0)
    return material(tmp_path / "empty.pagescan")


@pytest.fixture(scope="session")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """300 samples of a process that does many things; see workload.py."""
    path = tmp_path_factory.mktemp("workload") / "workload.pagescan"
    write_workload(path)
    return material(path)
