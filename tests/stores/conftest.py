"""Bundles to keep, and the servers to keep them on."""

import json

import pytest
from far_stores import web_server

from runnerwsgi import tar, zstd
from runnerwsgi.bundles import content_hash
from runnerwsgi.protocol import Bundle
from runnerwsgi.settings import Settings
from runnerwsgi.stores import open_store


@pytest.fixture
def make():
    """Make a bundle and its archive: ``make(b"the page", tenant="acme")``."""

    def make(page=b"hello", tenant="acme", name="acme.hello"):
        manifest = json.dumps({"name": name, "version": "1.0.0"}).encode()
        data = zstd.compress(tar.write({"manifest.json": manifest, "ui/index.html": page}))
        return Bundle(tenant, name, content_hash(data)), data

    return make


@pytest.fixture
def web(tmp_path):
    """A web server with an empty folder."""
    with web_server(tmp_path / "served") as server:
        yield server


@pytest.fixture
def open_at(tmp_path):
    """Open the store of a URL with an empty cache: ``open_at(url, bundle_cache_mb=1)``."""
    opened = []

    def open_at(url, home="home", **settings):
        settings = {"allow_insecure": True, **settings}
        store = open_store(Settings(home=tmp_path / home, bundle_store=url, **settings))
        opened.append(store)
        return store

    yield open_at
    for store in opened:
        store.close()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The S3 server, which boto3 finds in the environment."""
    s3_server.use(monkeypatch)
    return s3_server


@pytest.fixture(params=["web", "s3"])
def url(request):
    """The URL of an empty store, of each kind of remote."""
    if request.param == "web":
        return request.getfixturevalue("web").url + "/some%20where"
    return f"s3://{request.getfixturevalue('s3').bucket()}/some/where"
