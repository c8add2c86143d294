"""What the tests of stores need: places where a store may be made, of every kind, and an S3 server."""

from __future__ import annotations

import importlib.util
import secrets

import pytest

import pagescan
from tests.conformance.conftest import tracking as tracking

from .s3_server import BUCKET, S3Server

needs_obstore = pytest.mark.skipif(
    importlib.util.find_spec("obstore") is None, reason="needs obstore: pip install 'pagescan[s3]'"
)


@pytest.fixture
def path(tmp_path):
    """Where a store in a file may be made."""
    return tmp_path / "state.pagescan"


@pytest.fixture(scope="session")
def s3_server():
    """An S3 server; started once."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        pytest.skip("needs moto[s3] and flask: an S3 server")
    server = S3Server()
    yield server
    server.kill()


@pytest.fixture
def s3_url(s3_server, monkeypatch):
    """Where a store may be made on the S3 server; how to reach it is in the environment."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{secrets.token_hex(8)}"


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("file", marks=needs_obstore),
        pytest.param("memory", marks=needs_obstore),
        pytest.param("s3", marks=needs_obstore),
    ]
)
def url(request, tmp_path):
    """Where a store may be made, for each kind of store."""
    if request.param == "s3":
        return request.getfixturevalue("s3_url")
    return {
        "sqlite": tmp_path / "state.pagescan",
        "file": f"file://{tmp_path}/a folder",
        "memory": f"memory://{secrets.token_hex(8)}",
    }[request.param]


@pytest.fixture
def store(url):
    """A new store of each kind."""
    with pagescan.open_store(url) as store:
        yield store
