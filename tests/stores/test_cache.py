"""What is kept here of a remote store, and what has to go."""

import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from runnerwsgi.bundles import BundleStore
from runnerwsgi.errors import BackendStarting, BundleError, BundleUnavailable
from runnerwsgi.stores.cache import Cache

KIB = 1024


@pytest.fixture
def cache(tmp_path):
    """Room for three bundles of a hundred KiB and a little."""
    return Cache(tmp_path / "cache", 800 * KIB)


@pytest.fixture
def page(make):
    """The bundle of a page of a hundred KiB, which no compression makes smaller."""
    return lambda: make(os.urandom(100 * KIB))


def put(cache, made, used=None):
    bundle, data = made
    stored = cache.add(data, bundle.content_hash)
    if used is not None:
        os.utime(stored.archive, (used, used))
    return bundle.content_hash


def kept(cache):
    return {f"sha256:{path.name}" for path in (cache.root / "sha256").iterdir()}


def on_disk(folder):
    done = subprocess.run(["du", "-s", "-B1", folder], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


def test_what_was_used_longest_ago_goes_first(cache, page):
    now = time.time()
    old = put(cache, page(), now - 300)
    oldest = put(cache, page(), now - 400)
    new = put(cache, page(), now - 200)
    newest = put(cache, page())
    assert oldest not in kept(cache)
    assert {old, new, newest} == kept(cache)


def test_a_use_counts(cache, page):
    now = time.time()
    first = put(cache, page(), now - 400)
    second = put(cache, page(), now - 300)
    put(cache, page(), now - 200)
    cache.get(first)
    put(cache, page())
    assert first in kept(cache)
    assert second not in kept(cache)


def test_its_size_on_disk_stays_below_the_limit(cache, page):
    for _ in range(8):
        put(cache, page())
        assert on_disk(cache.root / "sha256") < 800 * KIB + 64 * KIB
    assert len(kept(cache)) == 3


def test_a_bundle_above_the_limit_stays_until_the_next(tmp_path, page):
    cache = Cache(tmp_path / "cache", KIB)
    first = put(cache, page())
    assert cache.get(first)
    second = put(cache, page())
    assert kept(cache) == {second}
    with pytest.raises(BundleUnavailable):
        cache.get(first)


def test_what_is_refused_makes_no_room(cache, page):
    hashes = {put(cache, page()) for _ in range(3)}
    bundle, _ = page()
    with pytest.raises(BundleError):
        cache.add(page()[1], bundle.content_hash)
    assert kept(cache) == hashes


def test_who_may_only_read_can_use_it(make):
    bundle, data = make()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = Path(folder) / "bundles"
        stored = BundleStore(root).add(data)
        os.utime(stored.archive, (1, 1))
        for path in (root, root / "sha256", stored.path):
            path.chmod(0o555)
        child = os.fork()
        if not child:
            if os.geteuid() == 0:
                os.setuid(65532)
            found = Cache(root, 1).get(bundle.content_hash)
            is_read = (found.path / "ui/index.html").read_bytes() == b"hello"
            os._exit(0 if is_read and found.archive.stat().st_mtime == 1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for path in (root, root / "sha256", stored.path):
            path.chmod(0o755)


def test_several_threads_fill_it_and_nothing_breaks(cache, page):
    made = [page() for _ in range(12)]
    failures = []

    def fill(one):
        bundle, data = one
        try:
            assert cache.add(data, bundle.content_hash).content_hash == bundle.content_hash
        except BackendStarting:
            pass  # another thread has made room with it at once
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=fill, args=(one,)) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    last = put(cache, page())
    assert last in kept(cache)
    assert len(kept(cache)) <= 3
