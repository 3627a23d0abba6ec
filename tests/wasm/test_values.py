"""WIT values cross in both directions as plain Python values, without a leak."""

import os
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runnerwsgi_wasm.faults import GuestFault
from runnerwsgi_wasm.handler import Function
from runnerwsgi_wasm.host import link
from wasm.rig import LIBC
from wasmtime import Engine, Store
from wasmtime.component import Component

ENGINE = Engine()


def mirror(wit_type, extra=""):
    """A function that answers with its argument, by way of a guest's memory."""
    # A list in the canonical ABI is always passed as address and count: any type travels in
    # one of length one, and the core function hands both back through memory.
    text = f"""(component {LIBC} {extra}
      (core module $code
        (import "libc" "memory" (memory 1))
        (func (export "f") (param i32 i32) (result i32)
          (i32.store (i32.const 8) (local.get 0))
          (i32.store (i32.const 12) (local.get 1))
          (i32.const 8)))
      (core instance $main (instantiate $code (with "libc" (instance $libc))))
      (func (export "f") (param "x" (list {wit_type})) (result (list {wit_type}))
        (canon lift (core func $main "f")
          (memory (core memory $libc "memory")) (realloc (core func $libc "realloc")))))"""
    component = Component(ENGINE, text)
    ty = component.type.exports(ENGINE)["f"].ty
    function = Function(component, "f", ty)
    store = Store(ENGINE)
    instance = link(ENGINE, component).instantiate(store, component)
    return lambda value: function(store, instance, value)


INTEGERS = {
    f"{sign}{bits}": st.integers(
        -(2 ** (bits - 1)) if sign == "s" else 0,
        2 ** (bits - 1) - 1 if sign == "s" else 2**bits - 1,
    )
    for sign in "su"
    for bits in (8, 16, 32, 64)
    if (sign, bits) != ("u", 8)
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TYPES = {
    **INTEGERS,
    "bool": st.booleans(),
    "f64": st.floats(allow_nan=False),
    "char": st.characters(exclude_categories=["Cs"]),
    "string": TEXT,
    "(list u8)": st.binary(max_size=200),
    "(list string)": st.lists(TEXT, max_size=5),
    "(option string)": st.none() | TEXT,
    "(option (list u8))": st.none() | st.binary(max_size=50),
    "(tuple string u32)": st.tuples(TEXT, st.integers(0, 9)),
    "(record (field \"a-b\" string) (field \"c\" (option u8)))": st.fixed_dictionaries(
        {"a-b": TEXT, "c": st.none() | st.integers(0, 255)}
    ),
    '(enum "red" "green")': st.sampled_from(["red", "green"]),
    "(result u32 (error string))": st.tuples(st.just("ok"), st.integers(0, 9))
    | st.tuples(st.just("err"), TEXT),
    "(result (error string))": st.just(("ok", None)) | st.tuples(st.just("err"), TEXT),
    '(variant (case "none") (case "text" string) (case "numbers" (list u16)))': st.just(
        ("none", None)
    )
    | st.tuples(st.just("text"), TEXT)
    | st.tuples(st.just("numbers"), st.lists(st.integers(0, 65535), max_size=4)),
    '(flags "a" "b" "c")': st.sets(st.sampled_from("abc")),
}  # fmt: skip


@pytest.mark.parametrize("wit_type", TYPES)
def test_a_value_comes_back_as_it_went_in(wit_type):
    named = wit_type.startswith(("(record", "(enum", "(variant", "(flags"))
    there_and_back = (
        mirror("$t", f"(type $t' {wit_type}) (export $t \"t\" (type $t'))")
        if (named)
        else mirror(wit_type)
    )

    @settings(max_examples=30, deadline=None, database=None)
    @given(st.lists(TYPES[wit_type], max_size=4))
    def check(values):
        assert there_and_back(values) == values

    check()


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_bytes_of_every_length_come_back(size):
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    assert mirror("u8")(data) == data


@pytest.mark.parametrize(
    ("wit_type", "value"),
    [
        ("u8", "text"),
        ("u16", [70_000]),
        ("u16", [-1]),
        ("u32", [True]),
        ("bool", [1]),
        ("string", [b"bytes"]),
        ("string", ["\ud800"]),
        ("(list u8)", ["text"]),
        ("(tuple u8 u8)", [(1,)]),
        ("(option u32)", ["text"]),
        ("(result u32)", [("maybe", 1)]),
        ("(list string)", [["good", 7]]),
    ],
    ids=[
        "a text for bytes",
        "a number too large",
        "a number below zero",
        "a truth value for a number",
        "a number for a truth value",
        "bytes for a text",
        "a lone surrogate",
        "a text for bytes inside a list",
        "a tuple that is too short",
        "another type in an option",
        "a result that is neither",
        "one bad element after a good one",
    ],
)
def test_a_value_of_another_type_is_refused(wit_type, value):
    with pytest.raises((TypeError, ValueError)):
        mirror(wit_type)(value)


def test_a_missing_field_is_named():
    there_and_back = mirror(
        "$t", '(type $t\' (record (field "name" string))) (export $t "t" (type $t\'))'
    )
    with pytest.raises(TypeError, match="name: expected str, found NoneType"):
        there_and_back([{"nome": "x"}])
    assert there_and_back([{"name": "x", "more": 1}]) == [{"name": "x"}]


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("good", [True, False], ids=["taken", "refused"])
def test_values_leave_nothing_allocated(good):
    there_and_back = mirror("(tuple string (list u8) (option string) u8)")
    value = ("text", bytes(100_000), "more text", 1 if good else "one")  # 3 MB in the library

    def cross():
        with nullcontext() if good else pytest.raises(TypeError):
            there_and_back([value])

    for _ in range(5):
        cross()
    before = resident_bytes()
    for _ in range(60):
        cross()
    assert resident_bytes() - before < 60_000_000


@pytest.mark.parametrize(
    ("lists", "each", "taken"), [(90, 100, True), (101, 100, False), (3, 9000, False)]
)
def test_lists_in_lists_are_counted_together(lists, each, taken):
    value = [[7] * each for _ in range(lists)]
    there_and_back = mirror("(list u16)")
    if taken:
        assert there_and_back(value) == value
        assert there_and_back(value) == value
        return
    with pytest.raises(GuestFault, match="more than 10000 elements in all"):
        there_and_back(value)
