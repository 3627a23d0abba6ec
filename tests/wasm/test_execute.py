"""A guest is asked, and its answer, its end or its limits come back as one outcome."""

import threading
import time

import pytest
from wasm.rig import (
    CALL_ROUTE,
    CLIENTS,
    DENIED,
    LOG,
    NOBODYS,
    OK,
    PROXY,
    ROUTE,
    SECRET_KEYS,
    SOCKET,
    TIMER,
    Capabilities,
    Import,
    body_guest,
    guest,
    header_guest,
)

from runnerwsgi.errors import BodyTooLarge, CapabilityError, UnknownCapability
from runnerwsgi.protocol import HttpRequest
from runnerwsgi.wit import ECHO

ECHO = ECHO.read_text("utf-8")
ROUTER = guest(CALL_ROUTE, imports=[PROXY], data=ROUTE)
LOOP = guest("(loop $again (br $again)) unreachable")
HOG = guest(
    """(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    unreachable"""
)
CONTENT_HOG = guest(
    f"(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) {OK}"
)


def _many(count, content):
    """As many core instances of one module."""
    instances = "".join(f"(core instance $i{n} (instantiate $m))" for n in range(count))
    return f"(core module $m {content}){instances}"


def _empty_headers(count):
    """A guest that answers with *count* headers without name or value."""
    return guest(
        f"""(drop (memory.grow (i32.const 2000))) (i32.store16 (i32.const 512) (i32.const 200))
        (i32.store (i32.const 516) (i32.const 65536))
        (i32.store (i32.const 520) (i32.const {count}))
        (i32.const 512)"""
    )


def test_a_handler_sees_method_and_url(rig):
    response = rig.run(ECHO, HttpRequest("PATCH", "/grüße", "a=1&a=2"))
    assert (response.outcome, response.status) == ("ok", 200)
    assert response.body == "PATCH /grüße?a=1&a=2\n".encode()
    assert ("x-ext-method", "PATCH") in response.headers


@pytest.mark.parametrize(
    "body",
    [b"", b"one", bytes(range(256)) * 300, b"\xff" * 1_000_000],
    ids=["empty", "a word", "every byte, more than a piece", "a megabyte"],
)
def test_a_body_comes_back_as_it_went_in(rig, body):
    response = rig.run(ECHO, HttpRequest("POST", "/", body=body))
    assert response.outcome == "ok"
    assert response.body == body


def test_timings_name_the_phases(rig):
    timings = rig.run(ECHO).timings
    assert set(timings) == {"load", "instantiate", "run", "host"}
    assert all(0 <= ms < 5000 for ms in timings.values())


@pytest.mark.parametrize(
    ("component", "limits", "outcome", "sign"),
    [
        (guest("unreachable"), {}, "guest_trap", "unreachable"),
        (guest("(i32.load (i32.const -4))"), {}, "guest_trap", "out of bounds"),
        (guest("(i32.div_u (i32.const 1) (i32.const 0))"), {}, "guest_trap", "divide by zero"),
        (guest("(call 0 (local.get 0))"), {}, "guest_trap", "stack exhausted"),
        (LOOP, {"timeout_ms": 100}, "timeout", "epoch deadline"),
        (LOOP, {"fuel": 100_000}, "out_of_fuel", "fuel limit"),
        (HOG, {"memory_mb": 16}, "out_of_memory", "16 MiB"),
        (CONTENT_HOG, {"memory_mb": 16}, "ok", None),
    ],
    ids=[
        "a trap",
        "a read outside of its memory",
        "a division by zero",
        "recursion without end",
        "a loop without end",
        "a loop with limited fuel",
        "a guest that traps for want of memory",
        "a guest that makes do with its memory",
    ],
)
def test_each_end_has_its_outcome(rig, component, limits, outcome, sign):
    response = rig.run(component, **limits)
    assert response.outcome == outcome
    assert sign is None or sign in response.error


@pytest.mark.parametrize(
    ("component", "sign"),
    [
        (guest("(i32.store16 (i32.const 512) (i32.const 99)) (i32.const 512)"), "status 99"),
        (guest("(i32.store16 (i32.const 512) (i32.const 600)) (i32.const 512)"), "status 600"),
        (header_guest("x y", "1"), "header name"),
        (header_guest("", "1"), "header name"),
        (header_guest("x-a", "1\r\nset-cookie: a=b"), "control character"),
        (header_guest("x-a", "1\0"), "control character"),
        (body_guest(0, 5_000_000), "out-of-bounds"),
        (_empty_headers(400_000), "more than 10000 elements"),
    ],
    ids=[
        "a status below 200",
        "a status above 599",
        "a header name with a blank",
        "a header without a name",
        "a header value with a line end",
        "a header value with a zero",
        "a body outside of its memory",
        "more headers than can be read in time",
    ],
)
def test_a_nonsense_answer_is_a_guest_trap(rig, component, sign):
    response = rig.run(component)
    assert response.outcome == "guest_trap"
    assert sign in response.error
    assert (response.headers, response.body) == ((), None)


def test_header_names_are_lower_case_and_values_stay(rig):
    response = rig.run(header_guest("X-Ext-Ä".encode("ascii", "ignore").decode(), "a\tb"))
    assert response.headers == (("x-ext-", "a\tb"),)


def test_a_body_above_the_cap_is_refused(fresh):
    small = fresh(max_response_bytes=1000)
    assert small.run(ECHO, HttpRequest("POST", "/", body=b"x" * 1000)).outcome == "ok"
    response = small.run(ECHO, HttpRequest("POST", "/", body=b"x" * 1001))
    assert response.outcome == "guest_trap"
    assert "1001 bytes" in response.error


def test_a_body_the_engine_cannot_carry_is_refused_before_the_call(rig):
    limit = rig.backend.runner_metadata()["max_body_bytes"]
    request = rig.request(ECHO, HttpRequest("POST", "/", body=bytes(limit + 1)))
    before = rig.counters
    with pytest.raises(BodyTooLarge, match=str(limit)):
        rig.backend.runner_execute(request)
    assert rig.counters == before


def test_a_bundle_that_is_not_there_is_not_found(rig):
    request = rig.request(ECHO)
    object.__setattr__(request.context, "content_hash", "sha256:" + "0" * 64)
    assert rig.backend.runner_execute(request).outcome == "not_found"


@pytest.mark.parametrize(
    ("component", "sign"),
    [
        (None, "only a UI"),
        ("(component)", "exports nothing"),
        (b"\0asm\x0d\0\1\0\7\3\1\x40\1", "refused"),
        ("(module)", "refused"),
        (guest(modules="(core module $big (memory 2000))(core instance $b (instantiate $big))"),
         "more memory to start"),
        (guest(modules=_many(2, "(memory 1)")), "more than two memories"),
        (guest(modules=_many(11, "(table 1 funcref)")), "more tables"),
        (guest(modules=_many(101, "")), "more core instances"),
        ('(component (import "m" (core module)))', "handler"),
    ],
    ids=[
        "a bundle without a component",
        "a component without a handler",
        "a component that does not validate",
        "a module instead of a component",
        "a component that starts with too much memory",
        "a component whose memories add up",
        "a component whose tables add up",
        "a component of too many instances",
        "a component that wants a module",
    ],
)  # fmt: skip
def test_what_cannot_be_started_is_refused(rig, component, sign):
    response = rig.run(component, memory_mb=64)
    assert response.outcome == "refused"
    assert sign in response.error


def test_a_handler_of_other_types_is_refused(rig):
    component = """(component
      (core module $m (func (export "f") (param i32) (result i32) (local.get 0)))
      (core instance $i (instantiate $m))
      (func $f (param "request" u32) (result u32) (canon lift (core func $i "f")))
      (export "handler" (func $f)))"""
    response = rig.run(component)
    assert response.outcome == "refused"
    assert "handler" in response.error


# Host functions


def test_a_result_is_ok_or_the_error_case(rig):
    yes = Capabilities(b"bytes")
    assert rig.run(ROUTER, capabilities=yes).status == 200
    interface, function, args, timeout = yes.asked[0]
    assert (interface, function, tuple(args)) == ("ui-proxy", "call-route", ("/x", None))
    assert 4 < timeout <= 5


@pytest.mark.parametrize(
    ("error", "case"),
    [
        (CapabilityError("route-not-found"), 0),
        (DENIED, 1),
        (CapabilityError("not-allowed"), 1),
        (CapabilityError("bad-request"), 2),
        (CapabilityError("no-such-case"), 3),
        (RuntimeError("a secret of the host"), 3),
    ],
    ids=[
        "the first case",
        "denied",
        "denied, as another interface spells it",
        "another case",
        "a case the interface does not have",
        "an exception of the host",
    ],
)
def test_a_refusal_is_the_interfaces_own_case(rig, error, case):
    response = rig.run(ROUTER, capabilities=Capabilities(error))
    assert (response.outcome, response.status) == ("ok", 300 + case)


def test_a_refusal_that_the_interface_cannot_spell_ends_the_guest(rig):
    keys = guest(f"(call $f0 (i32.const 600)) {OK}", imports=[SECRET_KEYS])
    assert rig.run(keys, capabilities=Capabilities(["a", "b"])).outcome == "ok"
    response = rig.run(keys, capabilities=Capabilities(DENIED))
    assert response.outcome == "guest_trap"
    assert "denied" in response.error


def test_a_host_function_that_answers_the_wrong_type_is_an_internal_error(rig):
    response = rig.run(ROUTER, capabilities=Capabilities("not bytes"))
    assert response.outcome == "internal"
    assert "expected bytes" in response.error


@pytest.mark.parametrize(
    ("imported", "code", "signs"),
    [
        (NOBODYS, "(drop (call $f0))", ("acme:doors/door#open",)),
        (CLIENTS, "(drop (call $f0))", ("alga:extension/clients#count", "not granted")),
        (SOCKET, "(drop (call $f0 (i32.const 0)))", ("create-tcp-socket", "cap:http.fetch")),
    ],
    ids=["an interface of a stranger's", "an interface that was not granted", "a socket"],
)
def test_an_import_nobody_provides_traps_when_it_is_called(rig, imported, code, signs):
    nobody = Capabilities(UnknownCapability("not granted"))
    assert rig.run(guest(imports=[imported]), capabilities=nobody).outcome == "ok"
    response = rig.run(guest(f"{code} {OK}", imports=[imported]), capabilities=nobody)
    assert response.outcome == "guest_trap"
    assert all(sign in response.error for sign in signs)


def test_a_call_without_capabilities_is_denied(rig):
    request = rig.request(ROUTER)
    object.__setattr__(request, "capabilities", None)
    assert rig.backend.runner_execute(request).status == 301


# Time


def test_a_host_call_that_blocks_gives_the_caller_back_in_time(rig):
    blocking = Capabilities(lambda *args: time.sleep(1.5))
    response, took = rig.timed(ROUTER, timeout_ms=200, capabilities=blocking)
    assert response.outcome == "timeout"
    assert "ui-proxy.call-route" in response.error
    assert took < 1.2


def test_a_sleeping_guest_is_woken_by_its_deadline(rig):
    block = Import(
        "wasi:io/poll@0.2.0",
        '(export "pollable" (type $q (sub resource)))'
        '(export "[method]pollable.block" (func (param "self" (borrow $q))))',
        "[method]pollable.block",
        "(param i32)",
    )
    shared = (
        TIMER,
        Import(
            block.interface,
            '(alias outer 1 $pollable (type $o)) (export "pollable" (type $q (eq $o)))'
            '(export "[method]pollable.block" (func (param "self" (borrow $q))))',
            block.function,
            block.core,
        ),
    )
    code = f"(call $f1 (call $f0 (i64.const 3600000000000))) {OK}"
    text = guest(code, imports=shared).replace(
        '(import "wasi:io/poll',
        '(alias export $i0 "pollable" (type $pollable))(import "wasi:io/poll',
    )
    response, took = rig.timed(text, timeout_ms=200)
    assert response.outcome == "timeout"
    assert took < 5
    short = text.replace("3600000000000", "20000000")
    response, _ = rig.timed(short, timeout_ms=2000)
    assert response.outcome == "ok"


def test_threads_that_hang_in_the_host_do_not_stop_others(fresh):
    rig = fresh(host_threads=8)
    hang = threading.Event()
    stuck = Capabilities(lambda *args: hang.wait(5) and b"")
    try:
        for _ in range(2):
            assert rig.run(ROUTER, timeout_ms=50, capabilities=stuck).outcome == "timeout"
        assert rig.run(ROUTER, capabilities=Capabilities(b"")).status == 303
        assert rig.run(ECHO).outcome == "ok"
    finally:
        hang.set()
    deadline = time.monotonic() + 2
    while rig.run(ROUTER, capabilities=Capabilities(b"")).status != 200:
        assert time.monotonic() < deadline


# Logs


def test_log_lines_come_back_in_order(rig):
    logger = guest(
        f"""(call $f0 (i32.const 1024) (i32.const 5))
        (call $f0 (i32.const 1026) (i32.const 3)) {OK}""",
        imports=[LOG],
        data='(data (i32.const 1024) "hello")',
    )
    response = rig.run(logger)
    assert [(line.level, line.message) for line in response.logs] == [
        ("info", "hello"),
        ("info", "llo"),
    ]


def test_a_text_that_would_hold_every_thread_ends_the_guest(rig):
    def logs(size):
        return guest(
            f"""(drop (memory.grow (i32.const 200)))
            (call $f0 (i32.const 1048576) (i32.const {size})) {OK}""",
            imports=[LOG],
        )

    assert rig.run(logs(8 << 20)).outcome == "ok"
    response = rig.run(logs((8 << 20) + 1))
    assert response.outcome == "guest_trap"
    assert "8388609 bytes" in response.error


def test_a_trap_keeps_the_lines_before_it(rig):
    logger = guest(
        "(call $f0 (i32.const 1024) (i32.const 5)) unreachable",
        imports=[LOG],
        data='(data (i32.const 1024) "hello")',
    )
    assert [line.message for line in rig.run(logger).logs] == ["hello"]


def test_a_log_flood_is_cut_and_says_so(fresh):
    rig = fresh(log_lines=10, log_bytes=1000)
    flood = guest(
        f"""(local $n i32) (local.set $n (i32.const 1000))
        (loop $more
          (call $f0 (i32.const 1024) (i32.const 5))
          (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        {OK}""".replace("(local $n i32)", ""),
        imports=[LOG],
        data='(data (i32.const 1024) "hello")',
    ).replace(
        "(param $request i32) (result i32)", "(param $request i32) (result i32) (local $n i32)"
    )
    logs = rig.run(flood).logs
    assert len(logs) == 11
    assert logs[-1].level == "warn"
    assert "990 more log lines" in logs[-1].message
