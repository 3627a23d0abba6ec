"""The corpus's hostile archives: each is refused as a whole and leaves no trace."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from corpus import archives
from corpus.cases import CORPUS, due, title_of

from runnerwsgi.bundles import BundleStore, content_hash, pack
from runnerwsgi.errors import BundleError, StorageError

CASES = [row.values[0] for row in due("test_bundle_archive")]
EXTENSION = CORPUS["vars"]["EXT"]
# What the message must be about, so that no case is refused for another case's reason.
REASONS = {
    "Z-002": "dot",
    "Z-003": "dot",
    "Z-005": "character outside",
    "Z-006": "empty part",
    "Z-007": "character outside",
    "Z-008": "pax header",
    "Z-009": "character outside",
    "Z-010": "character outside",
    "Z-012": "empty part",
    "Z-015": "empty part",
    "Z-016": "empty part",
    "Z-017": "more than 255",
    "Z-019": "longer than 2048 bytes",
    "Z-021": "device on Windows",
    "Z-022": "dot",
    "Z-023": "character outside",
    "Z-027": "symbolic link",
    "Z-028": "symbolic link",
    "Z-031": "hard link",
    "Z-032": "character device",
    "Z-034": "FIFO",
    "Z-035": "contiguous",
    "Z-036": "sparse",
    "Z-039": "unknown type",
    "Z-040": "pax header",
    "Z-041": "pax header",
    "Z-042": "pax header",
    "Z-044": "pax header",
    "Z-045": "global pax",
    "Z-046": "pax header",
    "Z-048": "octal",
    "Z-049": "octal",
    "Z-057": "one path",
    "Z-058": "one path",
    "Z-059": "one path",
    "Z-062": '"name" is there twice',
    "Z-063": "manifest.json",
    "Z-064": "more than 10000 entries",
    "Z-070": "window",
    "Z-071": "window",
    "Z-074": "begins with",
    "Z-075": "7 bytes after",
    "Z-076": "cut short",
    "Z-077": "damaged",
    "Z-079": "begins with",
    "Z-080": "begins with",
    "Z-082": "begins with",
    "Z-083": "after its end",
    "Z-084": "after its end",
    "Z-085": "cut short",
    "Z-086": "cut short",
    "Z-088": "format",
    "Z-089": "content hash is",
    "Z-091": "not a content hash",
    "Z-092": "content hash is",
    "Z-095": "not a content hash",
}


def tree(folder):
    """Every path below a folder, with what tells a change."""
    return {
        path.relative_to(folder).as_posix(): (path.lstat().st_mode, path.lstat().st_size)
        for path in folder.rglob("*")
    }


@pytest.fixture
def store(tmp_path):
    """A store that already holds another bundle, in a folder that shows what is written outside."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text('{"name": "acme.other", "version": "1.0.0"}')
    store = BundleStore(tmp_path / "deep" / "er" / "store")
    store.add(pack(other))
    return store


def in_child(script, *arguments):
    """Run a script that prints one JSON value, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


GROWTH = """
import json, resource, sys
from pathlib import Path
from runnerwsgi.bundles import read_bundle
from runnerwsgi.errors import BundleError
data = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_bundle(data)
    raise SystemExit("accepted")
except BundleError:
    pass
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))
"""

RACE = """
import json, sys
from pathlib import Path
from runnerwsgi.bundles import BundleStore
store, data = BundleStore(Path(sys.argv[1])), Path(sys.argv[2]).read_bytes()
print("ready", flush=True)
sys.stdin.readline()
bundle = store.add(data)
# Whatever can be seen at this instant is whole.
whole = all((bundle.path / name).is_file() for name in ("manifest.json", "dist/main.wasm"))
print(json.dumps([bundle.content_hash, whole and dict(bundle.ui_digests) != {}]))
"""


def check_accepted(store, case, data, expected):
    bundle = store.add(data, expected, extension=EXTENSION)
    assert store.get(expected) == bundle
    for path in bundle.path.rglob("*"):
        status = path.lstat()
        assert status.st_mode & 0o7777 == (0o755 if path.is_dir() else 0o644)
        assert status.st_uid == os.geteuid()
    for recipe in case["input"]["members"]:
        file = bundle.path / recipe["name"]
        assert file.read_bytes() == archives.latin(recipe["data"])
    assert not list(store.root.glob(".unfinished-*"))


def check_rejected(store, case, data, expected):
    before, started = tree(store.root.parents[1]), time.monotonic()
    with pytest.raises(BundleError, match=re.escape(REASONS[case["id"]])) as refused:
        store.add(data, expected, extension=EXTENSION)
    assert str(refused.value).isprintable() or case["id"] in ("Z-062", "Z-063")
    assert tree(store.root.parents[1]) == before
    assert time.monotonic() - started < case["expect"].get("max_seconds", 5)


def check_race(store, data, tmp_path):
    file = tmp_path / "bundle"
    file.write_bytes(data)
    command = [sys.executable, "-c", RACE, str(store.root), str(file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(8)]
    assert [child.stdout.readline() for child in children] == ["ready\n"] * 8
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [json.loads(child.communicate(timeout=60)[0]) for child in children]
    assert answers == [[content_hash(data), True]] * 8
    assert not list(store.root.glob(".unfinished-*"))
    assert len(list((store.root / "sha256").iterdir())) == 2


@pytest.fixture
def few_inodes(tmp_path):
    """A file system of twenty inodes, or None where this user may not mount one."""
    folder = tmp_path / "few"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "nr_inodes=20", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and not subprocess.run(command, check=False).returncode
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


SHORT_FILES = """
import json, resource, sys
from pathlib import Path
from runnerwsgi.bundles import BundleStore
from runnerwsgi.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    BundleStore(Path(sys.argv[1])).add(Path(sys.argv[2]).read_bytes())
except StorageError as error:
    print(json.dumps(error.status))
"""


def check_full(few_inodes, data, tmp_path):
    """Add to a store whose file system is full; its status and what is left must be right."""
    root = (few_inodes or tmp_path) / "store"
    (root / "sha256").mkdir(parents=True)
    if few_inodes:
        # What is left suffices for the scratch folder and some of the files, never for all.
        for number in range(os.statvfs(few_inodes).f_favail - 5):
            (few_inodes / f"filler-{number}").touch()
        with pytest.raises(StorageError) as failed:
            BundleStore(root).add(data)
        status = failed.value.status
    else:
        (tmp_path / "bundle").write_bytes(data)
        status = in_child(SHORT_FILES, root, tmp_path / "bundle")
    assert status == 503
    assert [*root.rglob("*")] == [root / "sha256"]


@pytest.mark.parametrize("case", CASES, ids=map(title_of, CASES))
def test_archive(case, store, request, tmp_path):
    """Every archive of the corpus gets what the corpus says."""
    recipe, expect = case["input"], case["expect"]
    inner, data = archives.archive(recipe)
    expected = archives.declared_hash(recipe.get("declared"), inner, data)
    if "race" in recipe:
        check_race(store, data, tmp_path)
    elif "fault" in recipe:
        check_full(request.getfixturevalue("few_inodes"), data, tmp_path)
    elif expect["result"] == "accepted":
        check_accepted(store, case, data, expected)
    else:
        check_rejected(store, case, data, expected)
    if "max_rss_growth_mib" in expect:
        (tmp_path / "bundle").write_bytes(data)
        assert in_child(GROWTH, tmp_path / "bundle") < expect["max_rss_growth_mib"]
