"""What is watched, and what `runnerwsgi docker watch` does when it changes."""

import os
import signal
import subprocess
import threading
from itertools import islice

from boxes import wait_for
from runnerwsgi_docker.watching import changes
from servers import BIN


def write(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_changes_are_told_when_they_have_settled(tmp_path):
    kept, gone, made = (tmp_path / name for name in ("kept.py", "gone.py", "deep/made.py"))
    write(kept)
    write(gone)
    looks = iter(
        [
            lambda: None,
            lambda: write(kept, "longer"),
            lambda: (gone.unlink(), write(made)),  # still writing
            lambda: None,
        ]
    )
    found = changes([tmp_path], sleep=lambda seconds: next(looks)())
    assert next(found) == sorted([kept, gone, made])


def test_what_tools_make_is_no_change(tmp_path):
    places = ("__pycache__/a.pyc", ".git/index", "node_modules/x/y.js", "x.egg-info/PKG-INFO")
    write(tmp_path / "real.py")
    looks = iter(
        [
            *(lambda place=place: write(tmp_path / place) for place in places),
            lambda: write(tmp_path / "real.py", "other"),
            lambda: None,
        ]
    )
    assert list(islice(changes([tmp_path], sleep=lambda _: next(looks)()), 1)) == [
        [tmp_path / "real.py"]
    ]


def test_what_is_written_and_taken_back_is_no_change(tmp_path):
    os.utime(write_and_give(tmp_path / "a"), (1, 1))
    looks = iter(
        [
            lambda: write(tmp_path / "b"),
            lambda: (tmp_path / "b").unlink(),
            lambda: None,
            lambda: write(tmp_path / "c"),
            lambda: None,
        ]
    )
    assert next(changes([tmp_path], sleep=lambda _: next(looks)())) == [tmp_path / "c"]


def write_and_give(path):
    write(path)
    return path


def test_the_container_is_replaced_when_a_folder_changes(box, recipe, tmp_path):
    named = tmp_path / "named"
    write(named / "first.py")
    env = os.environ | box.env
    env |= {"RUNNER_DOCKER_BASE": recipe.base, "RUNNER_DOCKER_WHEELS": str(recipe.wheels)}
    with subprocess.Popen(
        [BIN / "runnerwsgi", "docker", "watch", named], env=env, stderr=subprocess.PIPE, text=True
    ) as watch:
        said = []
        reader = threading.Thread(target=lambda: said.extend(watch.stderr))
        reader.start()
        try:
            wait_for("Watching", said)
            assert box.status()["is_well"]
            before = box.engine.inspect("container", box.name)["Id"]
            write(named / "second.py")
            wait_for("second.py changed", said)
            wait_for("is ready after", said, 2)
            assert box.status()["is_well"]
            assert box.engine.inspect("container", box.name)["Id"] != before
        finally:
            watch.send_signal(signal.SIGINT)
            status = watch.wait(timeout=60)
            reader.join()
    assert (status, said[-1]) == (0, f"No longer watching; {box.name} stays up.\n")
    assert box.status()["is_well"]
