"""Questions and answers as JSON: by WIT name, bytes as base64, nothing lost on the way."""

import json
import re

import pytest

from runnerwsgi.capabilities import AT_THE_RUNNER, INTERFACES
from runnerwsgi.capabilities.questions import (
    ENUMS,
    PARAMETERS,
    RECORDS,
    answer_from_json,
    answer_to_json,
    question_from_json,
    question_to_json,
)
from runnerwsgi.errors import BadRequest, BadRunnerResponse
from runnerwsgi.wit import ALGA

BYTES = bytes(range(256))
ENTRY = {"namespace": "notes", "key": "ключ", "value": BYTES, "revision": 2**63}
SCHEDULE = {"endpoint": "/night", "cron": "0 3 * * *", "timezone": None, "payload": '{"a": 1}'}
ITEM = {"service-id": "s", "quantity": 1, "description": "", "rate": 0.5, "is-discount": False}
INVOICE = {"client-id": "c", "items": [ITEM, {**ITEM, "discount-type": "fixed"}], "due-date": None}
WANTED = {"item-kind": "product", "page": 2**32 - 1}
OWN = {"data": b"\0", "pair": ("a", b"b"), "flags": frozenset({"x", "y"}), "none": None, "n": 1.5}


TYPED = re.compile(r"([a-z-]+): ([a-z0-9<>-]+)")


def test_the_parameters_are_those_of_the_wit_file():
    found = {}
    for interface, body in re.findall(
        r"^interface ([a-z0-9-]+) \{(.*?)^\}", ALGA.read_text(), re.M | re.S
    ):
        for name, parameters in re.findall(r"^ +([a-z-]+): func\((.*?)\)(?:;| ->)", body, re.M):
            found.setdefault(interface, {})[name] = list(TYPED.findall(parameters))
    known = {
        interface: {name: list(types.items()) for name, types in functions.items()}
        for interface, functions in PARAMETERS.items()
    }
    assert {name: found[name] for name in PARAMETERS} == known
    assert set(PARAMETERS) | AT_THE_RUNNER == set(INTERFACES) == set(found)


def test_the_types_are_those_of_the_wit_file():
    kinds = {"record": {}, "enum": {}}
    for kind, name, body in re.findall(
        r"^ +(record|enum) ([a-z0-9-]+) \{(.*?)^ +\}", ALGA.read_text(), re.M | re.S
    ):
        kinds[kind][name] = body
    assert {name: dict(TYPED.findall(kinds["record"][name])) for name in RECORDS} == RECORDS
    assert {name: set(re.findall(r"[a-z-]+", kinds["enum"][name])) for name in ENUMS} == ENUMS


@pytest.mark.parametrize(
    ("interface", "function", "args"),
    [
        pytest.param("storage", "put", (ENTRY,), id="an entry"),
        pytest.param("storage", "list-entries", ("notes", None), id="an absent option"),
        pytest.param("ui-proxy", "call-route", ("POST /x", BYTES), id="a payload"),
        pytest.param("ui-proxy", "call-route", ("/x", None), id="no payload"),
        pytest.param("ui-proxy", "call-route", ("/x", b""), id="an empty payload"),
        pytest.param("secrets", "list-keys", (), id="nothing"),
        pytest.param("scheduler", "create-schedule", (SCHEDULE,), id="a payload that is text"),
        pytest.param("invoicing", "create-manual-invoice", (INVOICE,), id="records in a record"),
        pytest.param("services", "list-services", (WANTED,), id="a case"),
        pytest.param("weather", "today", ("here", OWN, [BYTES]), id="a plugin's own"),
        pytest.param("weather", "today", (("ok", ()), [("err", None)]), id="a plugin's variants"),
    ],
)
def test_a_question_arrives_as_it_was_asked(interface, function, args):
    asked = question_from_json(interface, function, question_to_json(interface, function, args))
    assert asked == args
    assert repr(asked) == repr(args)


@pytest.mark.parametrize(
    ("interface", "value"),
    [
        pytest.param("storage", ENTRY, id="an entry"),
        pytest.param("storage", [ENTRY, ENTRY], id="entries"),
        pytest.param("storage", None, id="nothing"),
        pytest.param("ui-proxy", BYTES, id="bytes"),
        pytest.param("secrets", "correct horse", id="a text"),
        pytest.param("clients", {"items": [{"client-id": "c1"}], "page": 1}, id="records"),
        pytest.param("weather", OWN, id="a plugin's own"),
        pytest.param("weather", BYTES, id="a plugin's own bytes"),
    ],
)
def test_an_answer_arrives_as_it_was_given(interface, value):
    assert answer_from_json(interface, answer_to_json(interface, value)) == {"ok": value}


def test_bytes_are_base64_and_arguments_go_by_name():
    question = question_to_json("storage", "put", ({**ENTRY, "value": b"hi", "revision": None},))
    assert json.loads(question) == {
        "entry": {"namespace": "notes", "key": "ключ", "value": "aGk=", "revision": None}
    }
    assert json.loads(answer_to_json("ui-proxy", b"hi")) == {"ok": "aGk="}


def test_a_plugins_own_values_say_what_they_are():
    question = question_to_json("weather", "today", ("here", b"hi", ("a", 1)))
    assert json.loads(question) == {"args": ["here", {"$bytes": "aGk="}, {"$tuple": ["a", 1]}]}


GOOD = b'{"namespace": "n", "key": "k"}'
DEEP = b'{"args": ' + b"[" * 5000 + b"]" * 5000 + b"}"


@pytest.mark.parametrize(
    ("interface", "data"),
    [
        pytest.param("storage", b"", id="nothing"),
        pytest.param("storage", b'["n", "k"]', id="a list"),
        pytest.param("storage", b'{"namespace": "n"}', id="an argument is missing"),
        pytest.param("storage", b'{"namespace": "n", "key": "k", "x": 1}', id="one too many"),
        pytest.param(
            "storage", b'{"namespace": "n", "namespace": "m", "key": "k"}', id="one twice"
        ),
        pytest.param("storage", GOOD[:-1] + b', "value": "a"}', id="an unknown one"),
        pytest.param("storage", b'{"namespace": NaN, "key": "k"}', id="not a number"),
        pytest.param("storage", GOOD.decode().encode("utf-16"), id="UTF-16"),
        pytest.param("weather", b"{}", id="no list of arguments"),
        pytest.param("weather", b'{"args": {}}', id="no list"),
        pytest.param("weather", b'{"args": [], "more": 1}', id="more than a list"),
        pytest.param("weather", b'{"args": [{"$bytes": "a"}]}', id="no base64"),
        pytest.param("weather", b'{"args": [{"$bytes": 1}]}', id="bytes of a number"),
        pytest.param("weather", b'{"args": [{"$tuple": {}}]}', id="a tuple of no list"),
        pytest.param("weather", b'{"args": [{"$flags": [[]]}]}', id="flags that are none"),
        pytest.param("weather", b'{"args": [{"$new": 1}]}', id="an unknown kind"),
        pytest.param("weather", b'{"args": [{"$bytes": "", "a": 1}]}', id="a kind and a field"),
        pytest.param("weather", b'{"$tuple": []}', id="a tuple for everything"),
        pytest.param("weather", DEEP, id="five thousand deep"),
    ],
)
def test_a_malformed_question_is_refused(interface, data):
    with pytest.raises(BadRequest):
        question_from_json(interface, "get", data)


STORED = {"namespace": "n", "key": "k", "value": "aGk="}


@pytest.mark.parametrize(
    ("interface", "function", "asked"),
    [
        pytest.param("storage", "get", {"namespace": "n", "key": None}, id="no key"),
        pytest.param("storage", "delete", {"namespace": "n", "key": None}, id="every key"),
        pytest.param("storage", "get", {"namespace": ["n"], "key": "k"}, id="a list for a text"),
        pytest.param("storage", "put", {"entry": []}, id="a list for a record"),
        pytest.param("storage", "put", {"entry": {**STORED, "value": 1 << 40}}, id="a terabyte"),
        pytest.param("storage", "put", {"entry": {**STORED, "value": [1]}}, id="bytes in a list"),
        pytest.param("storage", "put", {"entry": {**STORED, "revision": True}}, id="a bool"),
        pytest.param("storage", "put", {"entry": {**STORED, "revision": -1}}, id="below zero"),
        pytest.param("storage", "put", {"entry": {**STORED, "revision": 1 << 64}}, id="too large"),
        pytest.param("storage", "put", {"entry": {**STORED, "owner": "x"}}, id="an unknown field"),
        pytest.param("storage", "put", {"entry": {"namespace": "n"}}, id="a field is missing"),
        pytest.param("ui-proxy", "call-route", {"route": "/x", "payload": 5}, id="no payload"),
        pytest.param("clients", "get-client", {"client-id": {"$ne": ""}}, id="an object"),
        pytest.param("clients", "list-clients", {"input": {"page": 1.5}}, id="half a page"),
        pytest.param("services", "list-services", {"input": {"item-kind": "x"}}, id="no case"),
        pytest.param(
            "invoicing",
            "create-manual-invoice",
            {"input": {"client-id": "c", "items": [{"service-id": "s"}]}},
            id="half an item",
        ),
    ],
)
def test_arguments_of_another_type_are_refused(interface, function, asked):
    with pytest.raises(BadRequest, match=f"{interface}.{function} takes"):
        question_from_json(interface, function, json.dumps(asked).encode())


@pytest.mark.parametrize("value", ["a", "aGk", "aGl=", "aGk=\n", "aGk=aGk=", "ä"])
def test_base64_has_one_spelling(value):
    question = json.dumps({"entry": {**ENTRY, "value": value}}).encode()
    with pytest.raises(BadRequest):
        question_from_json("storage", "put", question)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b'{"ok": 1, "err": "x"}', b'{"err": 1}', b"[]", b'{"ok": "?"}', b"<html>"],
)
def test_an_answer_that_is_none_is_told(data):
    with pytest.raises(BadRunnerResponse):
        answer_from_json("ui-proxy", data)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), "\ud800"], ids=repr)
def test_a_value_that_json_has_no_form_for_is_not_sent(value):
    with pytest.raises(ValueError):  # noqa: PT011 - whatever kind of one
        answer_to_json("weather", value)
