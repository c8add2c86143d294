"""The package from outside: its public names, its version, what importing it costs, what its files promise."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import pagescan

ROOT = Path(__file__).parent.parent
in_checkout = pytest.mark.skipif(not (ROOT / "uv.lock").exists(), reason="the tests were copied out of the checkout")


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def run_python(code: str) -> str:
    """What `code` prints in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# The public surface, frozen: a change here is a change for users and belongs in CHANGELOG.md.
PUBLIC = [
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
MODULES = {"errors", "model", "testing"}  # public modules, reached as attributes


class TestPublicNames:
    def test_are_these(self):
        assert list(pagescan.__all__) == PUBLIC

    def test_are_sorted_and_have_no_doubles(self):
        assert sorted(set(PUBLIC)) == PUBLIC

    def test_dir_shows_them_and_the_public_modules(self):
        assert set(dir(pagescan)) == {*PUBLIC, *MODULES}

    def test_types_name_the_home_that_is_loaded_from(self):
        """Type checkers read the imports, the interpreter reads the table: both must say the same."""
        source = inspect.getsource(pagescan)
        typed = {name: home for home, name in re.findall(r"from \.(\S+) import (\w+) as \2$", source, re.MULTILINE)}
        assert typed == pagescan._HOME

    @pytest.mark.parametrize("name", sorted(MODULES))
    def test_public_module_is_there(self, name):
        assert getattr(pagescan, name).__name__ == f"pagescan.{name}"

    @pytest.mark.parametrize("name", PUBLIC)
    def test_each_name_is_there_and_documented(self, name):
        value = getattr(pagescan, name)
        if callable(value):
            assert value.__doc__, f"{name} has no docstring"

    def test_star_import_brings_exactly_all(self):
        code = "names = {}; exec('from pagescan import *', names); print(*sorted(set(names) - {'__builtins__'}))"
        assert run_python(code).split() == PUBLIC

    def test_unknown_name_is_an_attribute_error_that_names_it(self):
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = pagescan.no_such_name


class TestImport:
    def test_needs_no_numpy(self):
        assert run_python("import sys, pagescan; print('numpy' in sys.modules)") == "False"

    def test_works_where_numpy_cannot_be_imported(self):
        code = "import sys; sys.modules['numpy'] = None; import pagescan; print(pagescan.__version__)"
        assert run_python(code) == pagescan.__version__

    def test_opens_no_descriptor(self):
        count = "len(os.listdir('/proc/self/fd'))"
        assert run_python(f"import os; before = {count}; import pagescan; print({count} - before)") == "0"


class TestVersion:
    def test_is_that_of_the_installed_package(self):
        try:
            installed = importlib.metadata.version("pagescan")
        except importlib.metadata.PackageNotFoundError:
            pytest.skip("pagescan is not installed here, only on the path")
        assert installed == pagescan.__version__

    @in_checkout
    def test_is_that_of_pyproject(self):
        assert pyproject()["project"]["version"] == pagescan.__version__

    def test_command_prints_it(self):
        done = subprocess.run(
            [sys.executable, "-m", "pagescan", "--version"], capture_output=True, text=True, timeout=30
        )
        assert done.stdout.split() == ["pagescan", pagescan.__version__]


def test_types_are_shipped():
    assert importlib.resources.files("pagescan").joinpath("py.typed").is_file()


@in_checkout
class TestReadme:
    def test_names_only_what_exists(self):
        named = set(re.findall(r"\bpagescan\.([a-zA-Z_]\w*)", (ROOT / "README.md").read_text()))
        assert {name for name in named if not hasattr(pagescan, name)} == set()
        assert named, "the README shows no call"

    def test_shows_the_two_commands(self):
        readme = (ROOT / "README.md").read_text()
        assert "scripts/demo" in readme
        assert "scripts/test" in readme


def normal_name(requirement: str) -> str:
    """The package that a requirement names, as locks spell it: `Moto.S3[all]>=5; marker` is `moto-s3`."""
    name = re.split(r"[\[<>=~!; ]", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def specifier(requirement: str) -> str:
    """Its versions: `Moto.S3[all]>=5; marker` allows `>=5`."""
    return re.sub(r"^[\w.-]+(\[.*?\])?|\s*;.*", "", requirement)


@in_checkout
class TestLock:
    """Machines without uv install from exported lists: these must agree with uv.lock, and uv.lock with pyproject."""

    @staticmethod
    def locked() -> dict[str, set[str]]:
        versions: dict[str, set[str]] = {}
        for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]:
            versions.setdefault(package["name"], set()).add(package["version"])
        return versions

    @pytest.mark.parametrize("group", ["bench", "dev", "docs"])
    def test_exported_versions_are_the_locked_ones(self, group):
        text = (ROOT / f"scripts/requirements-{group}.txt").read_text()
        exported = set(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))
        locked = self.locked()
        assert {name for name, version in exported if version not in locked.get(name, set())} == set()
        declared = {normal_name(line) for line in pyproject()["dependency-groups"][group]}
        assert declared - {name for name, _ in exported} == set()

    def test_lock_knows_each_declared_dependency(self):
        declared = pyproject()
        own = next(
            package
            for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
            if package["name"] == "pagescan"
        )
        assert [requirement(entry) for entry in own["metadata"]["requires-dist"] if "marker" not in entry] == declared[
            "project"
        ]["dependencies"]
        for group, wanted in declared["dependency-groups"].items():
            locked = {entry["name"]: entry.get("specifier", "") for entry in own["metadata"]["requires-dev"][group]}
            assert locked == {normal_name(line): specifier(line) for line in wanted}

    def test_lock_names_public_hosts_only(self):
        hosts = set(re.findall(r"https?://([^/\"]+)", (ROOT / "uv.lock").read_text()))
        assert hosts == {"pypi.org", "files.pythonhosted.org"}


def requirement(entry: dict[str, str]) -> str:
    return entry["name"] + entry.get("specifier", "")
