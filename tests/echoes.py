"""What the contract kit asks its users for: two guests, and how they are called."""

import pytest
from support import pack_files
from wasm.rig import guest
from wasmtime import wat2wasm

from runnerwsgi import ExecuteRequest
from runnerwsgi.bundles import BundleStore
from runnerwsgi.protocol import Context, HttpRequest, Limits
from runnerwsgi.wit import ECHO

TENANT, EXTENSION = "acme", "demo.echo"
MANIFEST = b'{"name":"demo.echo","version":"1.0.0"}'
GUESTS = {"echo": ECHO.read_text("utf-8"), "endless": guest("(loop $l (br $l)) unreachable")}


def guests_in(folder):
    """A store with a bundle of each guest, and their content hashes by name."""
    store = BundleStore(folder / "bundles")
    hashes = {}
    for name, text in GUESTS.items():
        files = {"manifest.json": MANIFEST, "dist/main.wasm": bytes(wat2wasm(text))}
        hashes[name] = store.add(pack_files(folder / name, files)).content_hash
    return store.root, hashes


class Echoes:
    """The kit's methods, for a backend whose runner has the bundles of a fixture `bundles`."""

    @pytest.fixture(autouse=True)
    def _place(self, bundles, tmp_path):
        self.hashes, self.home = bundles[1], tmp_path

    def call(self, name="echo", body=None):
        """A call of one of the guests."""
        context = Context(TENANT, EXTENSION, self.hashes[name], "r-1", "i-1", "1.0.0")
        return ExecuteRequest(context, HttpRequest("POST", "/", "a=1", body=body), Limits(10_000))

    def sample_request(self):
        return self.call()

    def echo_request(self, body):
        return self.call(body=body)

    def endless_request(self):
        return self.call("endless")
