"""What every remote store does: fetch once, verify, keep, upload."""

import os
import threading
import time

import pytest
from far_stores import send

from runnerwsgi import Gateway, canary
from runnerwsgi.bundles import BundleStore, content_hash
from runnerwsgi.errors import (
    BackendStarting,
    BundleError,
    BundleUnavailable,
    ConfigurationError,
    RunnerError,
    StorageError,
)
from runnerwsgi.protocol import Bundle
from runnerwsgi.settings import Settings
from runnerwsgi.stores import root_of
from runnerwsgi.stores.remote import storage_key

HEX = "a" * 64


class TestEachKind:
    def test_what_one_machine_pushes_another_fetches(self, url, open_at, make):
        bundle, data = make()
        pushed = open_at(url, "here").push(bundle, data)
        fetched = open_at(url, "there").fetch(bundle, 10.0)
        assert pushed.path != fetched.path
        assert fetched.manifest.name == "acme.hello"
        assert (fetched.path / "ui/index.html").read_bytes() == b"hello"
        assert fetched.archive.read_bytes() == data

    def test_who_pushes_has_it_at_once(self, url, open_at, make):
        store = open_at(url)
        bundle, data = make()
        pushed = store.push(bundle, data)
        assert store.fetch(bundle, 0.0) == pushed

    def test_it_lies_below_the_root_of_the_settings(self, url, open_at, make, tmp_path):
        store = open_at(url)
        assert store.root == root_of(Settings(home=tmp_path / "home", bundle_store=url))
        assert store.push(*make()).path.is_relative_to(store.root)

    def test_what_is_missing_is_told_with_its_key(self, url, open_at, make):
        bundle, _ = make()
        with pytest.raises(BundleUnavailable) as failed:
            open_at(url).fetch(bundle, 10.0)
        assert str(failed.value).startswith(f"{url} has no tenants/acme/extensions/acme.hello/")
        assert "runnerwsgi push" in str(failed.value)

    def test_a_missing_bundle_is_no_trouble_of_the_store(self, url, open_at, make):
        store = open_at(url)
        with pytest.raises(BundleUnavailable):
            store.fetch(make()[0], 10.0)
        assert store.trouble == ""

    def test_another_tenants_bundle_is_not_fetched(self, url, open_at, make):
        bundle, data = make()
        open_at(url, "here").push(bundle, data)
        other = Bundle("other", bundle.extension_id, bundle.content_hash)
        with pytest.raises(BundleUnavailable, match="tenants/other/"):
            open_at(url, "there").fetch(other, 10.0)

    def test_a_tenant_of_any_name(self, url, open_at, make):
        bundle, data = make(tenant="Müller & Söhne/../x%2F")
        open_at(url, "here").push(bundle, data)
        assert open_at(url, "there").fetch(bundle, 10.0).content_hash == bundle.content_hash

    def test_pushing_twice_is_pushing_once(self, url, open_at, make):
        store = open_at(url)
        assert store.push(*make()) == store.push(*make())

    def test_a_refused_archive_is_not_uploaded(self, url, open_at, make):
        bundle, data = make()
        wrong = Bundle("acme", "acme.other", bundle.content_hash)
        with pytest.raises(BundleError, match=r"acme\.other was asked for"):
            open_at(url, "here").push(wrong, data)
        with pytest.raises(BundleUnavailable, match="has no"):
            open_at(url, "there").fetch(wrong, 10.0)

    def test_it_can_be_used_after_a_close(self, url, open_at, make):
        store = open_at(url)
        store.push(*make())
        store.close()
        assert store.push(*make(b"another")).content_hash == make(b"another")[0].content_hash


class TestKeys:
    def test_the_key_is_the_protocols(self):
        found = storage_key(Bundle("acme", "demo.notes", f"sha256:{HEX}"))
        assert found == f"tenants/acme/extensions/demo.notes/sha256/{HEX}/bundle.tar.zst"

    def test_no_name_reaches_into_anothers_keys(self):
        keys = {
            storage_key(Bundle(tenant, extension, f"sha256:{HEX}"))
            for tenant, extension in [
                ("a", "b"),
                ("a/extensions/b", "c"),
                ("a", "b/extensions/c"),
                ("a%2Fb", "c"),
                ("a/b", "c"),
            ]
        }
        assert len(keys) == 5
        assert {key.count("/") for key in keys} == {6}

    @pytest.mark.parametrize("tenant", ["", ".", ".."], ids=["nothing", "a dot", "two dots"])
    def test_a_name_that_a_path_would_swallow_is_refused(self, tenant):
        with pytest.raises(BundleUnavailable, match="cannot be part"):
            storage_key(Bundle(tenant, "demo.notes", f"sha256:{HEX}"))

    def test_what_is_no_hash_is_refused(self):
        with pytest.raises(BundleUnavailable, match="not a content hash"):
            storage_key(Bundle("acme", "demo.notes", "sha256:../../x"))


class TestFetching:
    def test_a_bundle_is_fetched_once(self, web, open_at, make):
        bundle, data = make()
        open_at(web.url, "here").push(bundle, data)
        web.asked.clear()
        store = open_at(web.url, "there")
        for _ in range(3):
            store.fetch(bundle, 10.0)
        assert [method for method, _ in web.asked] == ["GET"]

    def test_another_process_finds_it_without_asking(self, web, open_at, make):
        bundle, data = make()
        open_at(web.url).push(bundle, data)
        web.asked.clear()
        open_at(web.url).fetch(bundle, 10.0)
        assert web.asked == []

    def test_other_bytes_are_refused_and_not_kept(self, web, open_at, make, tmp_path):
        bundle, _ = make()
        file = tmp_path / "served" / storage_key(bundle)
        file.parent.mkdir(parents=True)
        file.write_bytes(make(b"other")[1])
        store = open_at(web.url)
        with pytest.raises(BundleUnavailable, match=r"content hash is .*was expected"):
            store.fetch(bundle, 10.0)
        assert not [*store.root.rglob("*.html")]

    def test_what_came_broken_can_be_mended_there(self, web, open_at, make, tmp_path):
        bundle, data = make()
        store = open_at(web.url)
        file = tmp_path / "served" / storage_key(bundle)
        file.parent.mkdir(parents=True)
        file.write_bytes(data[:-1])
        with pytest.raises(BundleUnavailable):
            store.fetch(bundle, 10.0)
        file.write_bytes(data)
        time.sleep(1.1)
        assert store.fetch(bundle, 10.0).content_hash == bundle.content_hash

    def test_a_damaged_copy_is_fetched_anew(self, web, open_at, make):
        bundle, data = make()
        store = open_at(web.url)
        kept = store.push(bundle, data)
        (kept.path / "manifest.json").unlink()
        os.utime(kept.path)
        assert (open_at(web.url).fetch(bundle, 10.0).path / "manifest.json").exists()

    def test_a_crowd_fetches_once(self, web, open_at, make):
        bundle, data = make()
        open_at(web.url, "here").push(bundle, data)
        web.asked.clear()
        web.fault = lambda handler: (time.sleep(0.3), send(handler, 200, data))
        store = open_at(web.url, "there")
        found = crowd(20, lambda: store.fetch(bundle, 10.0))
        assert {one.content_hash for one in found} == {bundle.content_hash}
        assert len(web.asked) == 1

    def test_who_has_no_time_leaves_and_the_fetch_goes_on(self, web, open_at, make):
        bundle, data = make()
        go = threading.Event()
        web.fault = lambda handler: (go.wait(20), send(handler, 200, data))
        store = open_at(web.url)
        began = time.monotonic()
        with pytest.raises(BackendStarting, match="still being fetched"):
            store.fetch(bundle, 0.1)
        assert time.monotonic() - began < 5
        go.set()
        assert store.fetch(bundle, 10.0).content_hash == bundle.content_hash
        assert len(web.asked) == 1

    def test_a_crowd_hears_of_one_failure(self, web, open_at, make):
        web.fault = lambda handler: (time.sleep(0.2), send(handler, 500))
        store = open_at(web.url)
        found = crowd(20, lambda: store.fetch(make()[0], 10.0))
        assert {str(one) for one in found} == {
            f"{web.url} cannot be read: 500, something there is wrong: see its log"
        }
        assert len(web.asked) == 1

    def test_a_failure_is_not_remembered_for_long(self, web, open_at, make):
        bundle, data = make()
        store = open_at(web.url)
        web.fault = lambda handler: send(handler, 503)
        for _ in range(3):
            with pytest.raises(BundleUnavailable, match="503"):
                store.fetch(bundle, 10.0)
        assert len(web.asked) == 1
        assert "503" in store.trouble
        web.fault = lambda handler: send(handler, 200, data)
        time.sleep(1.1)
        assert store.fetch(bundle, 10.0).content_hash == bundle.content_hash
        assert store.trouble == ""

    def test_what_is_pushed_after_a_failure_is_there_at_once(self, web, open_at, make):
        bundle, data = make()
        store = open_at(web.url)
        with pytest.raises(BundleUnavailable):
            store.fetch(bundle, 10.0)
        store.push(bundle, data)
        assert store.fetch(bundle, 10.0).content_hash == bundle.content_hash

    def test_a_cache_that_cannot_be_written_is_said(self, web, open_at, make, tmp_path):
        bundle, data = make()
        open_at(web.url, "here").push(bundle, data)
        store = open_at(web.url, "there")
        store.root.parent.mkdir()
        store.root.write_text("in the way")
        with pytest.raises(StorageError, match="bundle-cache cannot be"):
            store.fetch(bundle, 10.0)

    def test_who_names_bundles_at_will_leaves_room_for_calls(self, web, open_at, make):
        bundle, data = make()
        invented = [Bundle("acme", "x", f"sha256:{number:064x}") for number in range(4)]
        web.fault = lambda handler: (
            time.sleep(0.5),
            send(handler, 404) if "extensions/x/" in handler.path else send(handler, 200, data),
        )
        store = open_at(web.url)
        for one in invented:
            with pytest.raises(BackendStarting):
                store.fetch(one, 0.01, anybodys=True)
        assert store.fetch(bundle, 10.0).content_hash == bundle.content_hash

    def test_a_fork_has_fetches_of_its_own(self, web, open_at, make):
        bundle, data = make()
        web.fault = lambda handler: (time.sleep(0.3), send(handler, 200, data))
        store = open_at(web.url)
        with pytest.raises(BackendStarting):
            store.fetch(bundle, 0.05)
        child = os.fork()
        if not child:
            try:
                store.fetch(bundle, 5.0)
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def crowd(number, job):
    """What *job* gives, or raises, in so many threads at once."""
    found, ready = [], threading.Barrier(number)

    def one():
        ready.wait()
        try:
            found.append(job())
        except RunnerError as exc:
            found.append(exc)

    threads = [threading.Thread(target=one) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        pytest.param("ftp://host/x", "expected a folder", id="another scheme"),
        pytest.param("https://", "no URL of a store", id="no host"),
        pytest.param("https://user:pw@host/", "no URL of a store", id="a password in it"),
        pytest.param("https://host/?a=1", "has a query", id="a query"),
        pytest.param("http://host/", "in the clear", id="plain http"),
        pytest.param("s3://", "write s3://bucket", id="no bucket"),
        pytest.param("s3://bucket/x?versionId=1", "write s3://bucket", id="a version"),
        pytest.param("s3://key:pw@bucket/x", "write s3://bucket", id="a key in it"),
        pytest.param("ftp://user:pw@host/x?a=pw", "//…@host", id="another scheme's password"),
    ],
)
def test_what_names_no_store_is_refused_at_once(open_at, url, complaint):
    with pytest.raises(ConfigurationError, match=complaint) as failed:
        open_at(url, allow_insecure=False)
    assert "pw" not in str(failed.value)


def test_a_folder_is_a_store_like_the_others(open_at, make, tmp_path):
    store = open_at(f"file://{tmp_path}/bundles")
    assert isinstance(store, BundleStore)
    bundle, data = make()
    assert store.push(bundle, data) == store.fetch(bundle, 1.0)
    assert store.where == str(tmp_path / "bundles")
    assert content_hash(data) == bundle.content_hash


class TestTheCanary:
    @pytest.mark.parametrize("kind", ["far", "read-only", "not there"])
    def test_every_store_has_it(self, web, open_at, tmp_path, kind):
        folder = tmp_path / "bundles"
        if kind == "read-only":
            BundleStore(folder).prepare()
            folder.chmod(0o555)
        store = open_at(web.url if kind == "far" else str(folder))
        assert store.fetch(canary.BUNDLE, 5.0).manifest.name == canary.BUNDLE.extension_id
        assert store.fetch(canary.BUNDLE, 5.0).wasm
        assert web.asked == []
        assert not folder.exists() or not [*folder.glob("sha256/*")]

    def test_it_is_executed_whatever_the_store(self, web, tmp_path):
        env = {
            "RUNNER_BACKEND": "wasm",
            "RUNNER_HOME": str(tmp_path / "home"),
            "RUNNER_BUNDLE_STORE": web.url,
            "RUNNER_ALLOW_INSECURE": "1",
        }
        with Gateway.from_env(env) as gateway:
            gateway.probe(30_000)
