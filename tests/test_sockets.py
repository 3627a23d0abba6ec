"""Sockets of our own: who can reach them, and that none is left where nobody listens."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from runnerwsgi.errors import BackendUnreachable, StorageError
from runnerwsgi.sockets import SOCKET_KEY, Sockets, _open_to_all
from runnerwsgi.upstream import Upstream

TESTS = Path(__file__).parent


def app(environ, start_response):
    body = f"{environ['PATH_INFO']} {environ[SOCKET_KEY]} {os.getpid()}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def ask(path, timeout=5.0):
    upstream = Upstream(path)
    try:
        return upstream.exchange("GET", "/x", timeout=timeout, max_bytes=1000).body.decode()
    finally:
        upstream.close()


@contextmanager
def listening(application=app, **options):
    sockets = Sockets(application, **{"threads": 2, "max_body": 1000, **options})
    try:
        yield sockets
    finally:
        sockets.close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_others_may_connect_and_not_look_around(tmp_path):
    folder = tmp_path / "home" / "run"
    before = os.umask(0o077)
    try:
        with listening() as sockets:
            name = sockets.name_in(folder)
            assert ask(folder / name) == f"/x True {os.getpid()}"
            assert stat.S_IMODE(folder.stat().st_mode) == 0o711
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o666
            assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
            assert sockets.name_in(folder) == name
    finally:
        os.umask(before)
    assert names(folder) == []


def test_a_folder_that_is_there_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o750)
    with listening() as sockets:
        sockets.name_in(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_a_path_that_is_too_long_for_the_kernel_works(tmp_path):
    folder = tmp_path / ("d" * 120) / ("e" * 120)
    folder.mkdir(parents=True)
    with listening() as sockets:
        path = folder / sockets.name_in(folder)
        assert len(str(path)) > 250
        assert ask(path).startswith("/x True")


def test_two_folders_have_a_socket_each(tmp_path):
    with listening() as sockets:
        one, two = tmp_path / "1", tmp_path / "2"
        assert sockets.name_in(one) != sockets.name_in(two)
        assert ask(one / sockets.name_in(one)) == ask(two / sockets.name_in(two))


def test_sockets_of_processes_that_are_gone_are_removed(tmp_path):
    with listening() as living, listening() as sockets:
        name = living.name_in(tmp_path)
        dead = tmp_path / "gateway-1-00000000.sock"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(dead))
        other = tmp_path / "other.sock"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(other))
        draft = tmp_path / ".gateway-2-00000000.sock"
        draft.touch()
        fresh = tmp_path / ".gateway-3-00000000.sock"
        fresh.touch()
        os.utime(draft, (0, time.time() - 3600))
        assert names(tmp_path) == sorted(
            [dead.name, draft.name, fresh.name, name, other.name],
        )
        own = sockets.name_in(tmp_path)
        assert names(tmp_path) == sorted([fresh.name, name, other.name, own])
        assert ask(tmp_path / name).startswith("/x")


def test_a_socket_that_was_tidied_away_comes_back(tmp_path):
    folder = tmp_path / "run"
    with listening() as sockets:
        path = folder / sockets.name_in(folder)
        path.unlink()
        folder.rmdir()
        again = folder / sockets.name_in(folder)
        assert again != path
        assert ask(again).startswith("/x")
    assert names(folder) == []


def test_closing_ends_the_threads_and_a_new_name_begins_anew(tmp_path):
    before = threading.active_count()
    with listening() as sockets:
        path = tmp_path / sockets.name_in(tmp_path)
        ask(path)
        sockets.close()
        end = time.monotonic() + 5
        while threading.active_count() > before and time.monotonic() < end:
            time.sleep(0.01)
        assert threading.active_count() == before
        with pytest.raises(BackendUnreachable):
            ask(path)
        assert ask(tmp_path / sockets.name_in(tmp_path)).startswith("/x")


def test_requests_beyond_the_threads_wait_their_turn(tmp_path):
    lock, most = threading.Lock(), []
    inside = [0]

    def slow(environ, start_response):
        with lock:
            inside[0] += 1
            most.append(inside[0])
        time.sleep(0.05)
        with lock:
            inside[0] -= 1
        return app(environ, start_response)

    with listening(slow, threads=2) as sockets:
        path = tmp_path / sockets.name_in(tmp_path)
        threads = [threading.Thread(target=ask, args=(path,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(most) == 6
    assert max(most) == 2


def test_a_folder_of_another_user_is_not_used(tmp_path, monkeypatch):
    if os.geteuid() == 0:
        os.chown(tmp_path, 4242, -1)
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: 4343)
    with listening() as sockets, pytest.raises(StorageError, match=f"belongs to user {owner}"):
        sockets.name_in(tmp_path)
    monkeypatch.undo()
    assert names(tmp_path) == []


def test_a_link_in_the_sockets_place_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.touch(0o600)
    (tmp_path / "link").symlink_to(secret)
    for path in (secret, tmp_path / "link"):
        with pytest.raises(FileExistsError):
            _open_to_all(path)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("file/run", id="a file is in the way"),
        pytest.param("/proc/nothing/run", id="a folder that nobody may make"),
    ],
)
def test_a_folder_that_cannot_be_is_an_error_in_one_line(tmp_path, place):
    (tmp_path / "file").touch()
    with listening() as sockets, pytest.raises(StorageError) as told:
        sockets.name_in(tmp_path / place)
    assert str(tmp_path / place) in str(told.value)
    assert "\n" not in str(told.value)


FORKING = """
import os, sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_sockets import Sockets, app, ask

folder = Path(sys.argv[1])
sockets = Sockets(app, threads=1, max_body=1000)
mine = sockets.name_in(folder)
if os.fork() == 0:
    own = sockets.name_in(folder)
    assert own != mine
    assert ask(folder / own).endswith(f" {os.getpid()}")
    sys.exit(0)
status = os.wait()[1]
assert status == 0, status
assert ask(folder / mine).endswith(f" {os.getpid()}")
assert [path.name for path in folder.iterdir()] == [mine]
"""


def run(code, *args):
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, args)]
    return subprocess.run(command, text=True, capture_output=True, timeout=60)


def test_a_forked_process_listens_on_its_own_and_leaves_the_parents(tmp_path):
    done = run(FORKING, tmp_path, TESTS)
    assert done.returncode == 0, done.stderr
    # A process that ends takes its socket along.
    assert names(tmp_path) == []


ORPHANED = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_sockets import Sockets, app

sockets = Sockets(app, threads=1, max_body=1000)
sockets.name_in(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    time.sleep(30)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_does_not_hold_the_socket_of_a_parent_that_was_killed(tmp_path):
    done = run(ORPHANED.replace("time.sleep(30)", "os.close(1), os.close(2), time.sleep(30)"),
               tmp_path, TESTS)  # fmt: skip
    child = int(done.stdout)
    try:
        (name,) = names(tmp_path)
        with pytest.raises(BackendUnreachable, match="refused"):
            ask(tmp_path / name)
        with listening() as sockets:
            assert names(tmp_path) != [name, sockets.name_in(tmp_path)]
            assert name not in names(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
