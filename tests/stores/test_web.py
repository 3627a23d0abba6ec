"""A store on a web server."""

import socket
import threading
import time
from contextlib import closing

import pytest
from far_stores import send
from peers import unused_port

from runnerwsgi.bundles import MAX_ARCHIVE_BYTES
from runnerwsgi.errors import BackendStarting, BundleUnavailable, StorageError
from runnerwsgi.secrets import Secret
from runnerwsgi.settings import Settings
from runnerwsgi.stores.remote import storage_key
from runnerwsgi.stores.web import WebSource

TOKEN = "correct-horse-battery"


def status(number, **headers):
    return lambda handler: send(handler, number, **headers)


def test_the_manifest_lies_beside_and_the_archive_comes_last(web, open_at, make):
    bundle, data = make()
    open_at(web.url).push(bundle, data)
    key = storage_key(bundle)
    beside = key.replace("bundle.tar.zst", "manifest.json")
    assert web.asked == [("PUT", f"/{beside}"), ("PUT", f"/{key}")]
    assert b"acme.hello" in (web.folder / beside).read_bytes()


def test_a_token_goes_along(web, open_at, make):
    web.token = TOKEN
    bundle, data = make()
    open_at(web.url, "here", bundle_store_token=Secret(TOKEN)).push(bundle, data)
    store = open_at(web.url, "there", bundle_store_token=Secret(TOKEN))
    assert store.fetch(bundle, 10.0).content_hash == bundle.content_hash


def test_a_server_that_wants_a_token_is_told_as_that(web, open_at, make):
    web.token = TOKEN
    with pytest.raises(BundleUnavailable, match=r"401.*RUNNER_BUNDLE_STORE_TOKEN"):
        open_at(web.url).fetch(make()[0], 10.0)
    with pytest.raises(StorageError, match=r"401.*RUNNER_BUNDLE_STORE_TOKEN"):
        open_at(web.url).push(*make())


def test_the_token_is_in_no_message(web, open_at, make):
    web.token = "another"
    store = open_at(web.url, bundle_store_token=Secret(TOKEN))
    with pytest.raises(BundleUnavailable) as failed:
        store.fetch(make()[0], 10.0)
    assert TOKEN not in f"{failed.value!r} {store.trouble} {store.where}"


FAULTS = {
    "refused": (status(403), "403, it refuses: check"),
    "broken": (status(500), "500, something there is wrong"),
    "moved": (status(302, Location="http://127.0.0.1:1/"), "302, it redirects.*not followed"),
    "nothing": (status(204), "204, something"),
    "too long": (
        lambda handler: send(handler, 200, Content_Length=str(MAX_ARCHIVE_BYTES + 1)),
        "an answer of 67108865 bytes, 67108864 allowed",
    ),
    "encoded": (status(200, Content_Encoding="gzip"), "an encoded answer"),
}


@pytest.mark.parametrize(("fault", "complaint"), FAULTS.values(), ids=FAULTS)
def test_what_the_server_does_wrong_is_one_sentence(web, open_at, make, fault, complaint):
    web.fault = fault
    with pytest.raises(BundleUnavailable, match=complaint) as failed:
        open_at(web.url).fetch(make()[0], 10.0)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize("gone", [404, 410])
def test_what_is_gone_is_missing(web, open_at, make, gone):
    web.fault = status(gone)
    with pytest.raises(BundleUnavailable, match="has no tenants/acme") as failed:
        open_at(web.url).fetch(make()[0], 10.0)
    assert failed.value.missing


UPLOADS = {
    "no such place": (404, "there is no such place"),
    "read only": (405, "takes no uploads"),
    "reads only": (501, "takes no uploads"),
    "refused": (403, "it refuses"),
    "too large": (413, "raise its limit"),
    "full": (507, "it is full"),
    "accepted only": (202, "202"),
}


@pytest.mark.parametrize(("code", "complaint"), UPLOADS.values(), ids=UPLOADS)
def test_an_upload_that_is_not_taken_says_why(web, open_at, make, code, complaint):
    web.fault = status(code)
    with pytest.raises(StorageError, match=complaint):
        open_at(web.url).push(*make())


def test_nobody_listens(open_at, make):
    store = open_at(f"http://127.0.0.1:{unused_port()}")
    with pytest.raises(BundleUnavailable, match="refused"):
        store.fetch(make()[0], 10.0)
    with pytest.raises(StorageError, match="refused"):
        store.push(*make())
    assert "refused" in store.trouble


def test_a_silent_server_costs_the_time_of_a_fetch(make):
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        source = WebSource(f"http://127.0.0.1:{listener.getsockname()[1]}", allow_insecure=True)
        began = time.monotonic()
        with pytest.raises(BundleUnavailable, match="deadline exceeded"):
            source.read(storage_key(make()[0]), 0.3)
        assert time.monotonic() - began < 5


def test_a_drip_costs_the_time_of_a_fetch(web, make):
    stop = threading.Event()

    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        while not stop.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    web.fault = drip
    source = WebSource(web.url, allow_insecure=True)
    began = time.monotonic()
    with pytest.raises(BundleUnavailable, match="deadline exceeded"):
        source.read(storage_key(make()[0]), 0.4)
    assert time.monotonic() - began < 5
    stop.set()


def test_a_crowd_of_bundles_is_let_in_a_few_at_a_time(web, open_at, make):
    stop = threading.Event()
    web.fault = lambda handler: (stop.wait(5), send(handler, 404))
    store = open_at(web.url)
    for number in range(4):
        with pytest.raises(BackendStarting, match="still being fetched"):
            store.fetch(make(b"%d" % number)[0], 0.01)
    with pytest.raises(BackendStarting, match="4 other bundles"):
        store.fetch(make(b"more")[0], 0.01)
    stop.set()


def test_the_token_of_a_setting_is_never_shown():
    text = "glpat-1234567890"
    settings = Settings.from_env({"RUNNER_BUNDLE_STORE_TOKEN": text})
    assert settings.bundle_store_token.reveal() == text
    assert text not in repr(settings)
