"""The corpus's hostile components: each is refused or ends alone; and the controls."""

import resource
import time

import pytest
from corpus.cases import due, title_of
from runnerwsgi_wasm import host
from runnerwsgi_wasm.handler import handler_of
from wasm.rig import (
    CALL_ROUTE,
    LOG,
    OK,
    PROXY,
    ROUTE,
    Capabilities,
    Rig,
    body_guest,
    guest,
)
from wasmtime.component import Linker

from runnerwsgi.protocol import OUTCOME_ERRORS

CASES = {row.values[0]["id"]: row.values[0] for row in due("test_engine")}
ROUTER = guest(CALL_ROUTE, imports=[PROXY], data=ROUTE)


def one(case_id):
    """Parametrise with one case, so that it is run under its own id."""
    case = CASES[case_id]
    return pytest.mark.parametrize("case", [pytest.param(case, id=title_of(case))])


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    made = Rig(tmp_path_factory.mktemp("engine"))
    yield made
    made.backend.runner_close()


def wrapped(case, calls):
    """The case's core module in a component; its `f` is run by the handler as $g."""
    module = case["input"]["wat"].replace("(module", "(core module $case", 1)
    taken = '(import "case" "f" (func $g (result i32)))' if calls else ""
    return guest(
        "(i32.store16 (i32.const 512) (i32.add (i32.const 301) (call $g))) (i32.const 512)"
        if calls
        else OK,
        modules=f"{module} (core instance $case (instantiate $case))",
        links='(with "case" (instance $case))' if calls else "",
        taken=taken,
    )


def resident_mib():
    """The largest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def refused_with(response):
    return OUTCOME_ERRORS[response.outcome].status


@one("G-004")
def test_memory_cannot_grow_past_its_limit(rig, case):
    rig.warm_up(wrapped(case, calls=True))
    before = resident_mib()
    response = rig.run(wrapped(case, calls=True), memory_mb=64)
    assert (response.outcome, response.status) == ("ok", 300)  # the guest got -1
    assert resident_mib() - before < case["expect"]["rss_growth_mib_max"]


@one("G-005")
def test_a_memory_that_is_too_large_to_start_with_is_refused(rig, case):
    assert rig.run(wrapped(case, calls=False), memory_mb=64).outcome == "refused"
    assert rig.run(wrapped(case, calls=False), memory_mb=256).outcome == "ok"


@one("G-006")
def test_a_table_cannot_grow_past_its_limit(rig, case):
    response = rig.run(wrapped(case, calls=True))
    assert (response.outcome, response.status) == ("ok", 300)


@one("G-009")
def test_a_host_call_that_blocks_gives_the_caller_back(rig, case):
    sleepy = Capabilities(lambda *args: time.sleep(1.5) or b"")
    runs = [rig.timed(ROUTER, timeout_ms=200, capabilities=sleepy) for _ in range(3)]
    assert {response.outcome for response, _ in runs} == {"timeout"}
    # The best of three: the machine may be busy, the engine may not be late each time.
    assert min(took for _, took in runs) < 0.2 + 0.1
    assert rig.run(ROUTER, timeout_ms=5000, capabilities=sleepy).status == 200


@one("G-011")
def test_a_host_function_that_calls_back_gets_an_error_or_an_instance_of_its_own(
    rig, case, monkeypatch, tmp_path
):
    depth = []

    def again(*args):
        depth.append(len(depth))
        inner = Capabilities(again if len(depth) < 3 else b"end")
        return b"%d" % rig.run(ROUTER, capabilities=inner).status

    assert rig.run(ROUTER, capabilities=Capabilities(again)).status == 200
    assert depth == [0, 1, 2]

    # The same store: nothing of ours hands it out, so it is taken from under the engine.
    made, errors, instantiate = [], [], Linker.instantiate

    def spy(linker, store, component):
        made.append((component, store, instantiate(linker, store, component)))
        return made[-1][-1]

    def reenter(call, message):
        component, store, instance = made[-1]
        exports = component.type.exports(store.engine)
        handler = handler_of(component, {name: export.ty for name, export in exports.items()})
        try:
            handler.ask(store, instance, call.request)
        except RuntimeError as exc:
            errors.append(str(exc))
            raise

    monkeypatch.setattr(Linker, "instantiate", spy)
    monkeypatch.setitem(host.OWN["alga:extension/logging"], "log-info", reenter)
    logger = guest(f"(call $f0 (i32.const 0) (i32.const 0)) {OK}", imports=[LOG])
    fresh = Rig(tmp_path)
    response, took = fresh.timed(logger)
    fresh.backend.runner_close()
    assert response.outcome == "internal"
    assert errors == ["a guest cannot be entered while it waits for a host function"]
    assert took < 3


@one("G-012")
def test_nothing_of_a_call_is_seen_by_the_next(rig, case):
    counting = guest(
        """(i32.store (i32.const 2048) (i32.add (i32.load (i32.const 2048)) (i32.const 1)))
        (i32.store16 (i32.const 512) (i32.add (i32.const 200) (i32.load (i32.const 2048))))
        (i32.const 512)"""
    )
    assert [rig.run(counting).status for _ in range(5)] == [201] * 5


@one("G-013")
def test_a_bomb_of_many_functions_keeps_to_its_budget(tmp_path, case):
    bomb = guest(modules=f"(core module $bomb {'(func)' * 20_000})")
    assert bounded(tmp_path, bomb) < 10 + 1


@one("G-014")
def test_a_bomb_of_one_large_function_keeps_to_its_budget(tmp_path, case):
    steps = "(i64.mul (i64.add (local.get 0) (i64.const 77))) " * 85_000  # 600 kB of code
    bomb = guest(
        modules=f"(core module $bomb (func (param i64) (result i64) (local.get 0) {steps}))"
    )
    assert bounded(tmp_path, bomb) < 10 + 1


def bounded(folder, bomb):
    """The seconds until the component runs or is refused; a process of our own is not held up."""
    rig = Rig(folder, compile_timeout_ms=10_000, compile_memory_mb=1024)
    request = rig.request(bomb, timeout_ms=15_000)
    before, started = resident_mib(), time.monotonic()
    response = rig.backend.runner_execute(request)
    took = time.monotonic() - started
    rig.backend.runner_close()
    assert response.outcome in ("ok", "refused")
    assert resident_mib() - before < 80
    return took


@one("G-016")
def test_garbage_is_refused(rig, case):
    response = rig.run(bytes.fromhex(case["input"]["hex"]))
    assert response.outcome == case["expect"]["outcome"]
    assert refused_with(response) == case["expect"]["http"]


@one("G-017")
def test_an_address_outside_of_the_guest_is_a_trap(rig, case):
    response = rig.run(body_guest(-1, 100))
    assert response.outcome == "guest_trap"
    assert refused_with(response) == case["expect"]["http"]
    assert rig.run(body_guest(0, 100)).body == bytes(100)
