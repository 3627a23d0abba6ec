"""Bundle stores as the runner's image sees them: another user, a read-only root, a small disk."""

import json
import os
import subprocess

import pytest
from far_stores import web_server

from runnerwsgi import tar, zstd
from runnerwsgi.bundles import content_hash
from runnerwsgi.protocol import Bundle
from runnerwsgi.settings import Settings
from runnerwsgi.stores import open_store

pytestmark = pytest.mark.docker

PYTHON = "/opt/runnerwsgi/bin/python"
FETCH = """
import json, os, sys
from runnerwsgi.protocol import Bundle
from runnerwsgi.settings import Settings
from runnerwsgi.stores import open_store
store = open_store(Settings.from_env(os.environ))
for content_hash in sys.argv[1:]:
    bundle = Bundle("acme", "acme.hello", content_hash)
    print(len((store.fetch(bundle, 30.0).path / "ui/index.html").read_bytes()))
"""


def made(size):
    manifest = json.dumps({"name": "acme.hello", "version": "1.0.0"}).encode()
    files = {"manifest.json": manifest, "ui/index.html": os.urandom(size)}
    data = zstd.compress(tar.write(files))
    return Bundle("acme", "acme.hello", content_hash(data)), data


def push(url, home, *bundles):
    store = open_store(Settings(home=home, bundle_store=url, allow_insecure=True))
    try:
        for bundle, data in bundles:
            store.push(bundle, data)
    finally:
        store.close()
    return [bundle.content_hash for bundle, _ in bundles]


@pytest.fixture
def fetch(engine, image):
    """Fetch bundles in a container; what it prints."""

    def fetch(*options, url, hashes, size="16m"):
        command = [
            *("run", "--rm", "--network=host", "--read-only", "--cap-drop=ALL"),
            f"--tmpfs=/var/lib/runnerwsgi:uid=65532,gid=65532,mode=0700,size={size}",
            f"--env=RUNNER_BUNDLE_STORE={url}",
            *options,
            *(f"--entrypoint={PYTHON}", image, "-c", FETCH, *hashes),
        ]
        return subprocess.run(["docker", *command], text=True, capture_output=True, timeout=120)

    return fetch


def test_a_disk_that_is_full_makes_room_and_goes_on(fetch, tmp_path):
    with web_server(tmp_path / "served") as web:
        hashes = push(web.url, tmp_path / "home", *(made(300_000) for _ in range(5)))
        done = fetch("--env=RUNNER_ALLOW_INSECURE=1", url=web.url, hashes=hashes, size="1500k")
    assert done.stdout.split() == ["300000"] * 5, done.stderr


def test_a_disk_that_is_too_small_is_said_in_one_line(fetch, tmp_path):
    with web_server(tmp_path / "served") as web:
        hashes = push(web.url, tmp_path / "home", made(300_000))
        done = fetch("--env=RUNNER_ALLOW_INSECURE=1", url=web.url, hashes=hashes, size="200k")
    assert "No space left on device. Check its free space" in done.stderr.splitlines()[-1]


def test_s3_needs_nothing_that_the_image_lacks(fetch, tmp_path, s3_server, monkeypatch):
    s3_server.use(monkeypatch)
    url = f"s3://{s3_server.bucket()}"
    hashes = push(url, tmp_path / "home", made(1000))
    env = [f"--env={name}={value}" for name, value in s3_server.env.items()]
    done = fetch(*env, url=url, hashes=hashes)
    assert done.stdout.split() == ["1000"], done.stderr


def test_another_user_reads_a_folder_that_is_mounted(fetch, tmp_path):
    store = open_store(Settings(home=tmp_path / "home"))
    (tmp_path / "home").mkdir(mode=0o700)
    bundle, data = made(1000)
    store.push(bundle, data)
    mount = f"--volume={store.root}:/bundles:ro"
    done = fetch(mount, url="file:///bundles", hashes=[bundle.content_hash])
    assert done.stdout.split() == ["1000"], done.stderr
