"""What has changed in some folders, told by looking again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

LOOK_SECONDS = 0.5

Snapshot = dict[Path, tuple[int, int]]

_SKIPPED = ("__pycache__", "node_modules", "build", "dist")


def snapshot(folders: Iterable[Path]) -> Snapshot:
    """Time and size of every file, but hidden ones and what tools make."""
    found: Snapshot = {}
    for path in (path for folder in folders for path in _files(folder)):
        try:
            state = path.stat()
        except OSError:
            continue  # gone between listing and looking
        found[path] = (state.st_mtime_ns, state.st_size)
    return found


def changes(
    folders: Iterable[Path], sleep: Callable[[float], object] = time.sleep
) -> Iterator[list[Path]]:
    """The files that have changed, each time they stay as they are for one look."""
    folders = list(folders)
    seen = snapshot(folders)
    while True:
        sleep(LOOK_SECONDS)
        now = snapshot(folders)
        if now == seen:
            continue
        while now != (now := _after(folders, sleep)):
            pass  # an editor or a checkout is still writing
        changed = [path for path in {**seen, **now} if seen.get(path) != now.get(path)]
        seen = now
        if changed:
            yield sorted(changed)


def _after(folders: list[Path], sleep: Callable[[float], object]) -> Snapshot:
    sleep(LOOK_SECONDS)
    return snapshot(folders)


def _files(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith((".", *_SKIPPED)) or entry.name.endswith(".egg-info"):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _files(entry)
        elif entry.is_file():
            yield entry
