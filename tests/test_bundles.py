import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runnerwsgi import tar, zstd
from runnerwsgi.bundles import (
    MAX_ARCHIVE_BYTES,
    BundleStore,
    content_hash,
    left_out,
    pack,
    read_bundle,
)
from runnerwsgi.errors import BundleError, BundleUnavailable, ConfigurationError, StorageError

MANIFEST = {"name": "acme.hello", "version": "1.0.0"}
WITH_UI = MANIFEST | {"ui": {"type": "iframe", "entry": "ui/index.html"}}
WASM = b"\0asm\x01\0\0\0"


def make(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def archive(**files):
    """A bundle of some files; the manifest is there unless it is given."""
    files = {"manifest.json": json.dumps(MANIFEST).encode()} | files
    return zstd.compress(tar.write(files))


@pytest.fixture
def folder(tmp_path):
    """An extension as its author has it, with what does not belong into a bundle."""
    return make(
        tmp_path / "hello",
        {
            "manifest.json": json.dumps(WITH_UI).encode(),
            "ui/index.html": b"<h1>hi</h1>",
            "ui/deep/er/app.js": b"x()",
            "ui/.DS_Store": b"",
            "ui/.cache/y": b"",
            "dist/main.wasm": WASM,
            "dist/js/main.js": b"",
            "artifacts/component/component.wasm": WASM,
            "wit/world.wit": b"package alga:extension;",
            "precompiled/main.cwasm": b"machine code",
            "src/main.py": b"",
            "SIGNATURE": b"s",
            "sbom.spdx.json": b"{}",
            "README.md": b"",
            ".gitignore": b"",
        },
    )


@pytest.fixture
def store(tmp_path):
    return BundleStore(tmp_path / "store")


# --- packing


def test_a_packed_folder_holds_what_belongs_into_it(folder):
    assert sorted(read_bundle(pack(folder)).files) == [
        "SIGNATURE",
        "artifacts/component/component.wasm",
        "dist/main.wasm",
        "manifest.json",
        "sbom.spdx.json",
        "ui/deep/er/app.js",
        "ui/index.html",
        "wit/world.wit",
    ]


def test_what_is_left_out_can_be_told(folder):
    assert left_out(folder) == (
        ".gitignore",
        "README.md",
        "dist/js/",
        "precompiled/",
        "src/",
        "ui/.DS_Store",
        "ui/.cache/",
    )


def test_the_same_files_give_the_same_bytes(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    for number, path in enumerate(sorted(copy.rglob("*"), reverse=True)):
        path.chmod(0o700)
        os.utime(path, (number, number))
    assert pack(copy) == pack(folder)
    (copy / "ui/index.html").write_text("<h1>ho</h1>")
    assert pack(copy) != pack(folder)


def test_the_least_folder_is_a_manifest(tmp_path):
    make(tmp_path, {"manifest.json": json.dumps(MANIFEST).encode()})
    assert list(read_bundle(pack(tmp_path)).files) == ["manifest.json"]


def test_a_link_within_the_folder_is_packed_as_its_target(folder):
    (folder / "ui/link.js").symlink_to("deep/er/app.js")
    assert read_bundle(pack(folder)).files["ui/link.js"] == b"x()"


def spoil_nothing_at_all(folder):
    shutil.rmtree(folder)


def spoil_manifest(folder):
    (folder / "manifest.json").unlink()


def spoil_manifest_text(folder):
    (folder / "manifest.json").write_text("{}")


def spoil_entry(folder):
    (folder / "ui/index.html").unlink()


def spoil_wasm(folder):
    (folder / "dist/main.wasm").unlink()
    api = {"endpoints": [{"method": "GET", "path": "/"}]}
    (folder / "manifest.json").write_text(json.dumps(WITH_UI | {"api": api}))


def spoil_name(folder):
    (folder / "ui/my page.html").touch()


def spoil_device(folder):
    (folder / "ui/aux.js").touch()


def spoil_case(folder):
    (folder / "ui/INDEX.html").touch()


def spoil_link(folder):
    (folder / "ui/link").symlink_to("/etc/passwd")


def spoil_folder_link(folder):
    (folder / "ui/link").symlink_to("deep")


def spoil_wasm_link(folder):
    (folder / "dist/main.wasm").unlink()
    (folder / "dist/main.wasm").symlink_to("/etc/passwd")


def spoil_fifo(folder):
    os.mkfifo(folder / "ui/pipe")


def spoil_ratio(folder):
    (folder / "ui/zeros.bin").write_bytes(bytes(4_000_000))


def spoil_size(folder):
    with (folder / "ui/big").open("wb") as file:
        file.truncate(tar.MAX_FILE_BYTES + 1)


SPOILT = {
    "no folder": (spoil_nothing_at_all, "has no manifest.json"),
    "no manifest": (spoil_manifest, "has no manifest.json"),
    "a bad manifest": (spoil_manifest_text, r"\$.name: missing"),
    "no entry": (spoil_entry, "names the entry ui/index.html"),
    "no component": (spoil_wasm, "runnerwsgi build"),
    "a name with a space": (spoil_name, "'ui/my page.html' has a character"),
    "a device's name": (spoil_device, "device on Windows"),
    "names that differ by case": (spoil_case, "one path"),
    "a link out": (spoil_link, "leaves the folder"),
    "a link to a folder": (spoil_folder_link, "not a regular file"),
    "a component that is a link out": (spoil_wasm_link, "leaves the folder"),
    "a pipe": (spoil_fifo, "not a regular file"),
    "files that compress too well": (spoil_ratio, "200 times"),
    "a file that is too big": (spoil_size, "Make it smaller"),
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILT.values(), ids=SPOILT)
def test_a_folder_is_refused(folder, spoil, reason):
    spoil(folder)
    with pytest.raises(BundleError, match=reason):
        pack(folder)


# --- reading


def test_the_content_hash_is_of_the_exact_bytes():
    assert content_hash(b"abc") == "sha256:" + hashlib.sha256(b"abc").hexdigest()


def test_only_known_names_at_the_top_are_unpacked():
    ignored = {
        "UIX/a": b"",
        "precompiled/x.cwasm": b"",
        "package.json": b"{}",
        "manifest.json5": b"",
    }
    data = archive(**ignored, **{"ui/a": b"1", "sbom.xml": b"", "SIGNATURE": b""})
    assert sorted(read_bundle(data).files) == ["SIGNATURE", "manifest.json", "sbom.xml", "ui/a"]


def test_digests_are_of_ui_files_only():
    bundle = read_bundle(archive(**{"ui/a/b.js": b"x", "dist/main.wasm": WASM}))
    assert bundle.ui_digests == {"a/b.js": hashlib.sha256(b"x").hexdigest()}


def test_a_bundle_made_with_tar_and_zstd_is_read(folder):
    names = ["manifest.json", "ui/index.html", "dist"]
    made = subprocess.run(
        ["tar", "-C", folder, "-cf", "-", *names], capture_output=True, check=True
    )
    data = subprocess.run(
        ["zstd", "-19", "-T0"], input=made.stdout, capture_output=True, check=True
    ).stdout
    assert "dist/js/main.js" in read_bundle(data, content_hash(data)).files


def test_a_bundle_without_manifest_is_refused():
    data = zstd.compress(tar.write({"hello/manifest.json": b"{}"}))
    with pytest.raises(BundleError, match=r"no manifest\.json at its top"):
        read_bundle(data)


def test_a_bundle_of_another_extension_is_refused(store):
    with pytest.raises(BundleError, match=r"acme\.hello, but acme\.other was asked for"):
        store.add(archive(), extension="acme.other")
    assert not store.root.exists()
    assert store.add(archive(), extension="acme.hello")
    with pytest.raises(BundleError, match=r"acme\.other was asked for"):
        store.add(archive(), extension="acme.other")


def test_the_size_comes_before_the_hash():
    with pytest.raises(BundleError, match=f"more than {MAX_ARCHIVE_BYTES}"):
        read_bundle(bytes(MAX_ARCHIVE_BYTES + 1), "sha256:" + "0" * 64)


def test_the_hash_comes_before_the_content():
    with pytest.raises(BundleError, match="was expected"):
        read_bundle(b"not even zstd", "sha256:" + "0" * 64)


@pytest.mark.parametrize(
    "change",
    [str.upper, lambda text: text[7:], lambda text: text + "\n", lambda text: text + "0"],
    ids=["upper case", "no prefix", "a line end", "65 digits"],
)
def test_a_hash_has_one_spelling(store, change):
    expected = change(content_hash(archive()))
    with pytest.raises(BundleError, match="not a content hash"):
        store.add(archive(), expected)
    with pytest.raises(BundleUnavailable, match="not a content hash"):
        store.get(expected)


# --- the store


def test_a_bundle_is_kept_and_found_again(store, folder):
    data = pack(folder)
    added = store.add(data, content_hash(data))
    found = BundleStore(store.root).get(added.content_hash)
    assert found == added
    assert found.path == store.root / "sha256" / content_hash(data)[7:]
    assert found.manifest.name == "acme.hello"
    assert found.wasm.read_bytes() == WASM
    assert found.archive.read_bytes() == data
    assert dict(found.ui_digests) == {
        name: hashlib.sha256((folder / "ui" / name).read_bytes()).hexdigest()
        for name in ("deep/er/app.js", "index.html")
    }


def test_a_ui_only_extension_has_no_component(store):
    assert store.add(archive(**{"ui/index.html": b""})).wasm is None


def test_only_the_owner_writes_to_a_store_and_everybody_reads_whatever_the_umask(store):
    previous = os.umask(0o077)
    try:
        bundle = store.add(archive(**{"ui/a/b": b""}))
    finally:
        os.umask(previous)
    modes = {path.is_dir(): path.stat().st_mode & 0o7777 for path in bundle.path.rglob("*")}
    assert modes == {True: 0o755, False: 0o644}
    for folder in (store.root, store.root / "sha256", bundle.path):
        assert folder.stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("mode", [0o777, 0o700], ids=["others could write", "nobody could read"])
def test_the_mode_of_a_store_that_is_there_is_put_right(store, mode):
    store.root.mkdir()
    store.root.chmod(mode)
    store.add(archive())
    assert store.root.stat().st_mode & 0o7777 == 0o755


def test_adding_twice_writes_once(store):
    inode = store.add(archive()).path.stat().st_ino
    assert store.add(archive()).path.stat().st_ino == inode


def test_a_damaged_bundle_is_unavailable_and_added_anew(store):
    bundle = store.add(archive())
    os.utime(bundle.path)
    (bundle.path / "manifest.json").unlink()
    with pytest.raises(BundleUnavailable, match="damaged"):
        BundleStore(store.root).get(bundle.content_hash)
    assert (store.add(archive()).path / "manifest.json").exists()


def test_a_removed_bundle_is_gone_and_can_come_back(store):
    bundle = store.add(archive())
    assert store.remove(bundle.content_hash) is True
    assert store.remove(bundle.content_hash) is False
    with pytest.raises(BundleUnavailable, match="is not in") as failed:
        store.get(bundle.content_hash)
    assert failed.value.missing
    assert [*store.root.rglob("*")] == [store.root / "sha256"]
    assert store.add(archive()) == bundle


def test_looking_up_in_a_store_that_was_never_made_changes_nothing(store):
    with pytest.raises(BundleUnavailable):
        store.get(content_hash(b""))
    assert not store.root.exists()


def test_what_a_killed_process_left_is_swept_after_an_hour(store):
    store.add(archive())
    fresh, old = store.root / ".unfinished-fresh", store.root / ".unfinished-old"
    make(fresh, {"ready/a": b""})
    make(old, {"ready/a": b""})
    os.utime(old, (1, 1))
    store.add(archive(**{"ui/a": b""}))
    assert fresh.exists()
    assert not old.exists()


LIMITED = """
import json, resource, sys
from pathlib import Path
from runnerwsgi.bundles import BundleStore, read_bundle
from runnerwsgi.errors import StorageError
data = Path(sys.argv[2]).read_bytes()
read_bundle(data)
store = BundleStore(Path(sys.argv[1]))
exec(sys.argv[3])
try:
    store.add(data)
except StorageError as error:
    print(str(error))
"""
FAULTS = {
    "files cut short": ("resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))", "too large"),
    "no descriptors": ("resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))", "Too many open files"),
    "another user": (
        "import os; store.root.mkdir(); os.chown(store.root, 12345, 12345)"
        if os.geteuid() == 0
        else "store = BundleStore(Path('/'))",
        "belongs to user",
    ),
    "a file in its place": ("store.root.write_text('')", "File exists"),
}


@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_store_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path, fault, reason):
    (tmp_path / "bundle").write_bytes(archive(**{"ui/a": os.urandom(5000)}))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "store", tmp_path / "bundle", fault],
        capture_output=True,
        text=True,
        check=True,
    )
    assert reason in done.stdout
    left = [path for path in (tmp_path / "store").rglob("*") if path.name != "sha256"]
    if fault == FAULTS["no descriptors"][0]:
        # A folder that cannot be opened cannot be emptied: the next sweep takes it.
        left = [path for path in left if ".unfinished-" not in str(path)]
    assert not left


def test_a_storage_error_is_a_503():
    assert StorageError().status == 503


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/var/lib/bundles", "/var/lib/bundles"),
        ("file:///var/lib/my%20bundles", "/var/lib/my bundles"),
        ("file:/var/lib/bundles", "/var/lib/bundles"),
        ("file://localhost/srv", "/srv"),
        ("bundles", str(Path.cwd() / "bundles")),
    ],
)
def test_a_store_is_named_by_path_or_file_url(url, path):
    assert BundleStore.from_url(url).root == Path(path)


@pytest.mark.parametrize("url", ["s3://bucket/x", "https://host/x", "file://host/x", "file:x"])
def test_other_stores_are_refused(url):
    with pytest.raises(ConfigurationError, match="RUNNER_BUNDLE_STORE"):
        BundleStore.from_url(url)
