"""A store in S3."""

import logging
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler

import pytest
from far_stores import send
from peers import unused_port

from runnerwsgi.bundles import MAX_ARCHIVE_BYTES
from runnerwsgi.errors import BundleUnavailable, ConfigurationError, StorageError
from runnerwsgi.stores import s3 as module
from runnerwsgi.stores.remote import storage_key


@pytest.fixture
def bucket(s3):
    return s3.bucket()


@pytest.mark.parametrize("prefix", ["", "/", "/a", "/a/b/"], ids=["none", "/", "/a", "/a/b/"])
def test_objects_lie_below_the_prefix(s3, bucket, open_at, make, prefix):
    bundle, data = make()
    open_at(f"s3://{bucket}{prefix}").push(bundle, data)
    with s3.client() as client:
        keys = [one["Key"] for one in client.list_objects_v2(Bucket=bucket)["Contents"]]
    place = f"{prefix.strip('/')}/".lstrip("/")
    key = storage_key(bundle)
    assert keys == [place + key, place + key.replace("bundle.tar.zst", "manifest.json")]


def test_objects_have_types(s3, bucket, open_at, make):
    bundle, data = make()
    open_at(f"s3://{bucket}").push(bundle, data)
    key = storage_key(bundle)
    with s3.client() as client:
        head = client.head_object(Bucket=bucket, Key=key)
    assert (head["ContentType"], head["ContentLength"]) == ("application/zstd", len(data))


def test_there_is_no_such_bucket(s3, open_at, make):
    store = open_at("s3://nobody-made-this")
    with pytest.raises(BundleUnavailable, match="there is no such bucket"):
        store.fetch(make()[0], 10.0)
    assert "no such bucket" in store.trouble
    with pytest.raises(StorageError, match="cannot be written: there is no such bucket"):
        store.push(*make())


def test_there_are_no_credentials(s3, monkeypatch, open_at, make):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match="no credentials were found"):
        open_at("s3://bundles").push(*make())


def test_a_profile_that_is_not_there(s3, monkeypatch, open_at, make):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(BundleUnavailable, match="AWS_PROFILE names no profile"):
        open_at("s3://bundles").fetch(make()[0], 20.0)


def test_nobody_listens(s3, monkeypatch, open_at, make):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{unused_port()}")
    with pytest.raises(BundleUnavailable, match="nobody answers there"):
        open_at("s3://bundles").fetch(make()[0], 20.0)


def test_what_is_no_bucket_name(s3, open_at, make):
    with pytest.raises(BundleUnavailable, match="no bucket can have this name"):
        open_at("s3://Not_A_Bucket!").fetch(make()[0], 10.0)


def read(source, make, seconds):
    with closing(source):
        source.read(storage_key(make()[0]), seconds)


def error(status, code):
    body = f"<Error><Code>{code}</Code><Message>m-e-s-s-a-g-e</Message></Error>".encode()
    return lambda handler: send(handler, status, body if code else b"")


ANSWERS = {
    "denied": (403, "AccessDenied", "access denied: these credentials"),
    "denied without a word": (403, "", "access denied"),
    "a wrong key": (403, "SignatureDoesNotMatch", "the secret key is wrong"),
    "an unknown key": (403, "InvalidAccessKeyId", "the access key is unknown"),
    "an old key": (400, "ExpiredToken", "have expired"),
    "a wrong clock": (403, "RequestTimeTooSkewed", "clock is wrong"),
    "another region": (301, "PermanentRedirect", "bucket is elsewhere"),
    "what nobody knows": (418, "Teapot", r"Teapot \(418\)"),
}


@pytest.mark.parametrize(("status", "code", "meaning"), ANSWERS.values(), ids=ANSWERS)
def test_what_s3_refuses_is_one_sentence(
    s3, web, monkeypatch, open_at, make, status, code, meaning
):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", web.url)
    web.fault = error(status, code)
    store = open_at("s3://bundles")
    with pytest.raises(BundleUnavailable, match=meaning) as failed:
        store.fetch(make()[0], 20.0)
    assert "\n" not in str(failed.value)
    assert "m-e-s-s-a-g-e" not in str(failed.value)
    with pytest.raises(StorageError, match=meaning):
        store.push(*make())


def test_an_object_above_the_limit_is_not_read_to_its_end(s3, web, monkeypatch, open_at, make):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", web.url)
    monkeypatch.setattr(module, "MAX_ARCHIVE_BYTES", 1000)
    web.fault = lambda handler: send(handler, 200, b"x" * 100_000)
    with pytest.raises(BundleUnavailable, match="more than 1000 bytes"):
        open_at("s3://bundles").fetch(make()[0], 20.0)
    assert MAX_ARCHIVE_BYTES > 1000


def test_a_slow_answer_costs_the_time_of_a_fetch(s3, web, monkeypatch, make):
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000000")
        handler.end_headers()
        while not stop.wait(0.05):
            handler.wfile.write(b"x" * 70_000)

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", web.url)
    web.fault = drip
    began = time.monotonic()
    with pytest.raises(BundleUnavailable, match="it stopped answering"):
        read(module.S3Source("s3://bundles"), make, 1.0)
    assert time.monotonic() - began < 5.0
    stop.set()


def test_the_secret_key_is_in_no_log(s3, bucket, monkeypatch, open_at, make, caplog):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "correct-horse-battery")
    with caplog.at_level(logging.DEBUG):
        open_at(f"s3://{bucket}").push(*make())
    assert "correct-horse-battery" not in caplog.text


def test_without_boto3_it_says_what_to_install(monkeypatch, open_at):
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'runnerwsgi\[s3\]'"):
        open_at("s3://bundles")
