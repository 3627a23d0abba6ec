"""Compiled code: once per bundle, on disk for every process, in memory for warm calls."""

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from runnerwsgi_wasm.compile import Compiler
from wasm.rig import CALL_ROUTE, PROXY, ROUTE, Rig, guest

from runnerwsgi.errors import (
    BackendStarting,
    BundleUnavailable,
    ConfigurationError,
    StorageError,
)
from runnerwsgi.protocol import HttpRequest
from runnerwsgi.wit import ECHO

ECHO = ECHO.read_text("utf-8")
OTHER = guest()
ROUTER = guest(CALL_ROUTE, imports=[PROXY], data=ROUTE)
# Enough code to keep a compiler busy for a second.
_PRODUCT = "(i64.mul (local.get 0) " * 100 + "(i64.const {n})" + ")" * 100
_FUNCTIONS = (f"(func (param i64) (result i64) {_PRODUCT.format(n=n)})" for n in range(6000))
BUSY = guest(modules=f"(core module $busy {''.join(_FUNCTIONS)})")


def cold(rig):
    """Another process's rig: the same folders, nothing in memory."""
    return Rig(rig.folder)


def test_a_bundle_is_compiled_once_and_then_loaded_from_disk(fresh):
    rig = fresh()
    assert rig.warm_up(ECHO).compiled
    assert not rig.warm_up(ECHO).compiled
    assert rig.backend.runner_execute(rig.request(ECHO)).outcome == "ok"
    assert rig.counters == (1, 1, 2)

    after_restart = cold(rig)
    assert after_restart.backend.runner_execute(rig.request(ECHO)).outcome == "ok"
    assert after_restart.counters == (0, 1, 0)
    after_restart.backend.runner_close()


def test_a_warm_call_neither_compiles_nor_touches_the_disk(fresh):
    rig = fresh()
    request = rig.request(ECHO)
    rig.warm_up(ECHO)
    shutil.rmtree(rig.folder)
    opened = []
    sys.addaudithook(lambda event, args: watching and event == "open" and opened.append(args))
    watching = True
    try:
        answers = [rig.backend.runner_execute(request) for _ in range(20)]
    finally:
        watching = False
    assert {answer.outcome for answer in answers} == {"ok"}
    assert rig.counters == (1, 1, 20)
    assert opened == []


def test_calls_at_once_compile_once(fresh):
    rig = fresh()
    request = rig.request(ECHO, timeout_ms=20_000)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(rig.backend.runner_execute, [request] * 8))
    assert {answer.outcome for answer in answers} == {"ok"}
    assert rig.counters[:2] == (1, 1)


def test_processes_at_once_compile_once(fresh, pytestconfig):
    rig = fresh()
    content_hash = rig.add(ECHO)
    script = (
        "import sys; from pathlib import Path; from wasm.rig import Rig\n"
        "from runnerwsgi.protocol import Bundle\n"
        "rig = Rig(Path(sys.argv[1]))\n"
        "warm = rig.backend.runner_warm_up(Bundle('t', 'e', sys.argv[2]))\n"
        "print(int(warm.compiled))"
    )
    command = [sys.executable, "-c", script, str(rig.folder), content_hash]
    env = {**os.environ, "PYTHONPATH": str(pytestconfig.rootpath / "tests")}
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, env=env) for _ in range(4)]
    assert sum(int(child.communicate(timeout=60)[0]) for child in children) == 1


def test_a_call_that_cannot_wait_for_the_compiler_is_told_to_come_back(fresh):
    rig = fresh()
    request = rig.request(BUSY, timeout_ms=100)
    started = time.monotonic()
    with pytest.raises(BackendStarting) as starting:
        rig.backend.runner_execute(request)
    assert time.monotonic() - started < 3
    assert starting.value.retry_after >= 1
    # The work goes on without the caller, and is done once.
    assert rig.run(BUSY, timeout_ms=20_000).outcome == "ok"
    assert rig.counters[0] == 1


def test_code_that_this_engine_does_not_take_is_made_anew(fresh):
    rig = fresh()
    rig.warm_up(ECHO)
    (code,) = (rig.folder / "code").glob("*.cwasm")
    code.unlink()  # it is mapped: written over, it would change under the first rig's feet
    code.write_bytes(b"not machine code")
    code.chmod(0o600)
    again = cold(rig)
    assert again.run(ECHO).outcome == "ok"
    assert again.counters[:2] == (1, 1)
    again.backend.runner_close()


def test_calls_with_fuel_have_code_of_their_own(fresh):
    rig = fresh()
    assert rig.run(ECHO, fuel=10_000_000, timeout_ms=20_000).outcome == "ok"
    assert len(list((rig.folder / "code").glob("*.cwasm"))) == 2


def test_no_more_guests_stay_loaded_than_allowed(fresh):
    rig = fresh(loaded=1)
    for component in (ECHO, OTHER, ECHO, OTHER):
        assert rig.run(component).outcome == "ok"
    compiled, loaded, _ = rig.counters
    assert (compiled, loaded) == (2, 4)


def test_what_was_used_longest_ago_leaves_the_disk_first(fresh):
    rig = fresh(cache_mb=0)
    for component in (ECHO, OTHER):
        rig.warm_up(component)
    assert len(list((rig.folder / "code").glob("*.cwasm"))) == 1
    assert cold(rig).run(OTHER).outcome == "ok"


# Who may put code there


def test_the_folder_and_its_files_are_ours_alone(fresh):
    rig = fresh()
    rig.warm_up(ECHO)
    folder = rig.folder / "code"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("mode", [0o770, 0o705, 0o777], ids=["a group", "others", "everybody"])
def test_a_folder_that_others_can_use_is_refused(fresh, mode):
    rig = fresh()
    (rig.folder / "code").mkdir()
    (rig.folder / "code").chmod(mode)
    with pytest.raises(ConfigurationError, match="RUNNER_WASM_CACHE_DIR"):
        rig.warm_up(ECHO)


def test_a_folder_that_is_a_link_is_refused(fresh):
    rig = fresh()
    (rig.folder / "elsewhere").mkdir(mode=0o700)
    (rig.folder / "code").symlink_to(rig.folder / "elsewhere")
    with pytest.raises(ConfigurationError, match="code"):
        rig.warm_up(ECHO)


def test_a_file_that_others_could_have_written_is_not_loaded(fresh):
    rig = fresh()
    rig.warm_up(ECHO)
    (code,) = (rig.folder / "code").glob("*.cwasm")
    code.chmod(0o666)
    with pytest.raises(ConfigurationError, match="delete it"):
        cold(rig).run(ECHO)


def test_a_folder_that_cannot_be_made_is_a_storage_error_and_shows_in_health(fresh):
    rig = fresh()
    (rig.folder / "code").write_text("in the way")
    with pytest.raises(StorageError, match="code"):
        rig.run(ECHO)
    assert rig.backend.runner_health().status == "degraded"
    (rig.folder / "code").unlink()
    assert rig.run(ECHO).outcome == "ok"
    assert rig.backend.runner_health().status == "ok"


def test_a_folder_that_cannot_be_written_is_a_storage_error(fresh):
    rig = fresh()
    rig.warm_up(ECHO)
    (lock,) = (rig.folder / "code").glob("*.lock")
    lock.with_suffix(".cwasm").unlink()
    lock.unlink()
    lock.mkdir()  # in the way, for root too
    with pytest.raises(StorageError, match="RUNNER_WASM_CACHE_DIR"):
        cold(rig).run(ECHO)


# The compiler's own limits


@pytest.mark.parametrize(
    ("options", "sign"),
    [
        ({"compile_timeout_ms": 200}, "more than 0.2 s"),
        ({"compile_memory_mb": 150}, "150 MiB"),
    ],
    ids=["time", "memory"],
)
def test_compiling_has_limits(fresh, options, sign):
    rig = fresh(**options)
    with pytest.raises(BundleUnavailable, match=sign):
        rig.warm_up(BUSY)
    assert list((rig.folder / "code").glob("*.cwasm")) == []
    assert list((rig.folder / "code").glob(".compiling-*")) == []


def test_a_refusal_is_remembered(fresh):
    rig = fresh()
    assert rig.run("(component)").outcome == "refused"
    (rig.folder / "bundles").rename(rig.folder / "moved")  # nobody looks there again
    assert rig.backend.runner_execute(rig.request("(component)")).outcome == "refused"


def test_the_compiler_gets_nothing_of_our_environment(fresh, monkeypatch, tmp_path):
    spy = tmp_path / "python-spy"
    spy.write_text(f'#!/bin/sh\nenv > {tmp_path}/seen\nexec {sys.executable} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(spy))
    monkeypatch.setenv("DATABASE_PASSWORD", "canary")
    fresh().warm_up(ECHO)
    assert "canary" not in (tmp_path / "seen").read_text()


# Processes and threads


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # 3.12: threads and fork
def test_a_forked_child_runs_guests_of_its_own(fresh):
    rig = fresh()
    assert rig.run(ECHO).outcome == "ok"
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            outcome = rig.backend.runner_execute(rig.request(ECHO)).outcome
            os.write(writer, f"{outcome} {rig.counters}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        assert answer.read() == "ok (0, 1, 0)"
    os.waitpid(child, 0)
    assert rig.run(ECHO).outcome == "ok"


def test_no_thread_is_left_behind(fresh):
    rig = fresh()
    before = set(threading.enumerate())
    assert rig.run(ROUTER).outcome == "ok"
    ours = set(threading.enumerate()) - before
    assert {thread.name for thread in ours} >= {
        "runnerwsgi-wasm-ticker",
        "runnerwsgi-wasm-host-call",
    }
    rig.backend.runner_close()
    for thread in ours:
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_an_idle_engine_does_nothing(fresh):
    rig = fresh()
    rig.run(ECHO)
    # Other threads of this process may do something in one moment, but not in all.
    assert min(spent_while_idle() for _ in range(3)) < 0.0033


def spent_while_idle(seconds=0.1):
    """The processor time that this process takes while nothing is asked of it."""
    before = time.process_time()
    time.sleep(seconds)
    return time.process_time() - before


def test_many_threads_get_their_own_answers(fresh):
    rig = fresh()
    rig.warm_up(ECHO)
    bodies = [f"body {n} ".encode() * (n % 50 + 1) for n in range(200)]
    requests = [rig.request(ECHO, HttpRequest("POST", "/", body=body)) for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(rig.backend.runner_execute, requests))
    assert [answer.body for answer in answers] == bodies


def test_a_bundle_that_came_back_before_anybody_looked_is_not_refused(fresh, monkeypatch):
    rig = fresh()
    stored = rig.store.get(rig.add(ECHO))
    judge = Compiler._judge

    def come_back_first(*args):
        if aside.exists():
            aside.rename(stored.wasm)
        return judge(*args)

    monkeypatch.setattr(Compiler, "_judge", come_back_first)
    aside = stored.wasm.rename(stored.wasm.with_name("aside"))
    with pytest.raises(BackendStarting, match="went while"):
        rig.warm_up(ECHO)
    assert rig.warm_up(ECHO).compiled


def test_a_bundle_that_went_while_it_was_compiled_is_not_refused(fresh):
    rig = fresh()
    stored = rig.store.get(rig.add(ECHO))
    aside = stored.wasm.rename(stored.wasm.with_name("aside"))
    with pytest.raises(BackendStarting, match="went while"):
        rig.warm_up(ECHO)
    aside.rename(stored.wasm)
    assert rig.warm_up(ECHO).compiled
