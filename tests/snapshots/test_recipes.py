"""The examples of docs/object-storage.md that take several processes: run, and compared with what the page shows."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/object-storage.md"

pytestmark = [
    pytest.mark.usefixtures("tracking"),
    pytest.mark.skipif(not PAGE.exists(), reason="the tests were copied out of the checkout"),
    pytest.mark.skipif(importlib.util.find_spec("obstore") is None, reason="needs obstore: pip install 'pagescan[s3]'"),
    pytest.mark.skipif(os.sysconf("SC_PAGE_SIZE") != 4096, reason="the page shows what 4096-byte pages give"),
    pytest.mark.timeout(120),
]


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"needs {module}: pip install {module}")


def shown(name: str) -> list[str]:
    """What the page says that an example prints: the text after its code."""
    found = re.search(rf"<!-- examples/{name}\n-->\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1].splitlines()


def printed(*command: str) -> list[str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs("distributed")
def test_dask_workers_make_versions_together(tmp_path):
    lines = printed(sys.executable, "examples/keep_dask.py", f"file://{tmp_path}/store")
    assert lines == shown("keep_dask.py")


@needs("torch")
def test_ranks_of_torch_make_versions_together(tmp_path):
    run = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    lines = printed(*run, "examples/keep_torch.py", f"file://{tmp_path}/store")
    # Ranks print when they like.
    assert sorted(lines) == sorted(shown("keep_torch.py"))
