"""The JSON of a call and of its answer, strict where a hostile peer could speak."""

import contextlib
import json

import pytest
from corpus.cases import CORPUS
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerwsgi import ExecuteRequest, ExecuteResponse
from runnerwsgi.errors import (
    BadRequest,
    BadRunnerResponse,
    SecretsUnavailable,
    UnknownCapability,
)
from runnerwsgi.protocol import METHODS, OUTCOMES, Context, HttpRequest, Limits, User
from runnerwsgi.wire import (
    ERROR_PREFIXES,
    request_from_json,
    request_to_json,
    response_from_json,
    response_to_json,
)

HASH = "sha256:" + "0" * 64
MAX_BYTES = 4 * 1024 * 1024

# The exchange of protocol §8, with the parts that it leaves out by dots written out.
REQUEST_JSON = (
    '{"context":{"request_id":"0b0f6f9e3c1d4c5f","tenant_id":"acme","extension_id":"demo.notes",'
    f'"content_hash":"{HASH}","config":{{"unit":"h"}}}},"http":{{"method":"POST","path":"/notes",'
    '"query":{"draft":"1"},"query_string":"draft=1","headers":{"content-type":"application/json"},'
    '"body_b64":"eyJ0ZXh0IjoiaGkifQ=="},"limits":{"timeout_ms":29600,"memory_mb":256},'
    '"providers":["cap:context.read","cap:log.emit","cap:user.read","cap:storage.kv"],'
    '"user":{"user_id":"u1","user_email":"a@example.com","user_name":"A","user_type":"internal"}}'
)
REQUEST = ExecuteRequest(
    Context("acme", "demo.notes", HASH, request_id="0b0f6f9e3c1d4c5f", config={"unit": "h"}),
    HttpRequest(
        "POST", "/notes", "draft=1", (("content-type", "application/json"),), b'{"text":"hi"}'
    ),
    Limits(29600, 256),
    ("cap:context.read", "cap:log.emit", "cap:user.read", "cap:storage.kv"),
    User("u1", "a@example.com", "A", "internal"),
)
RESPONSE_JSON = (
    '{"status":201,"headers":{"content-type":"application/json"},"body_b64":"eyJpZCI6MX0=",'
    '"error":null,"outcome":"ok"}'
)
RESPONSE = ExecuteResponse(201, (("content-type", "application/json"),), b'{"id":1}')


def envelope(**fields):
    return json.dumps({"status": 200, "headers": {}, **fields}).encode()


def request_with(**fields):
    """The request of protocol §8 with fields replaced; `http__path` is a field of `http`."""
    value = json.loads(REQUEST_JSON)
    for name, new in fields.items():
        *parents, last = name.split("__")
        place = value
        for parent in parents:
            place = place[parent]
        place[last] = new
    return json.dumps(value).encode()


def test_the_exchange_of_the_protocol_byte_for_byte():
    assert request_to_json(REQUEST).decode() == REQUEST_JSON
    assert response_to_json(RESPONSE).decode() == RESPONSE_JSON


def test_the_exchange_of_the_protocol_is_read_back():
    assert request_from_json(REQUEST_JSON.encode()) == REQUEST
    assert response_from_json(RESPONSE_JSON.encode(), MAX_BYTES) == RESPONSE


def test_unknown_fields_are_ignored_by_both_sides():
    assert request_from_json(request_with(http__new=1, callback=None, new=[])) == REQUEST
    assert response_from_json(envelope(new={"a": 1}), MAX_BYTES).status == 200


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        pytest.param(None, None, id="no body"),
        pytest.param(b"", "", id="an empty body"),
        pytest.param(b"\0\xff\r\n", "AP8NCg==", id="bytes"),
    ],
)
def test_no_body_and_an_empty_one_stay_apart(body, sent):
    request = ExecuteRequest(Context("t", "e", HASH), HttpRequest("PUT", "/", body=body), Limits(1))
    data = request_to_json(request)
    assert json.loads(data)["http"].get("body_b64") == sent
    assert request_from_json(data).http.body == body


def test_a_query_string_wins_over_the_query():
    assert request_from_json(request_with(http__query_string="a=1&a=2")).http.query == {"a": "2"}
    old = request_with(http__query={"a": "1 2"}, http__query_string=None)
    assert request_from_json(old).http.query_string == "a=1+2"


def test_a_header_that_repeats_travels_as_a_list_and_joined():
    repeated = ExecuteResponse(200, (("vary", "a"), ("x-ext-a", "1"), ("vary", "b")))
    data = response_to_json(repeated)
    assert json.loads(data)["headers"] == {"vary": "a, b", "x-ext-a": "1"}
    assert response_from_json(data, MAX_BYTES) == repeated


def test_a_predecessors_name_of_a_user_field_is_understood():
    user = json.loads(REQUEST_JSON)["user"] | {"company_name": "Acme"}
    assert request_from_json(request_with(user=user)).user.client_name == "Acme"


@pytest.mark.parametrize(
    ("data", "place"),
    [
        pytest.param(b"{", "not strict JSON", id="not JSON"),
        pytest.param(b"[]", "not a JSON object", id="not an object"),
        pytest.param(b'{"a":1,"a":2}', "not strict JSON", id="a key twice"),
        pytest.param(request_with(http=[]), "http: found list", id="no http object"),
        pytest.param(request_with(context__tenant_id=7), "context.tenant_id", id="no text"),
        pytest.param(request_with(context__content_hash="x"), "context.content_hash", id="hash"),
        pytest.param(request_with(context__config={"a": 1}), "context.config", id="config"),
        pytest.param(request_with(http__method="BREW"), "http.method", id="method"),
        pytest.param(request_with(http__path="notes"), "http.path", id="a relative path"),
        pytest.param(request_with(http__headers=[]), "http.headers", id="headers as a list"),
        pytest.param(request_with(http__body_b64="a"), "http.body_b64", id="base64"),
        pytest.param(request_with(limits__timeout_ms=0), "limits.timeout_ms", id="no time"),
        pytest.param(request_with(limits__timeout_ms=True), "limits.timeout_ms", id="a bool"),
        pytest.param(request_with(limits__memory_mb="1"), "limits.memory_mb", id="memory"),
        pytest.param(request_with(providers="cap:x"), "providers", id="providers"),
        pytest.param(request_with(user={"user_id": "u"}), "user.user_email", id="half a user"),
    ],
)
def test_a_request_that_is_none_is_refused_by_its_field(data, place):
    with pytest.raises(BadRequest, match=place):
        request_from_json(data)


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"status": 404}, "ok"),
        ({"status": 500, "error": "execute_failed: wasm trap: unreachable"}, "guest_trap"),
        ({"status": 500, "error": "execute_failed: epoch deadline reached"}, "timeout"),
        ({"status": 502, "error": "bundle_fetch_failed: 404"}, "not_found"),
        ({"status": 500, "error": "engine_init_failed: x"}, "internal"),
        ({"status": 400, "error": "missing_routing_headers"}, "bad_request"),
        ({"status": 500, "error": "what is that"}, "internal"),
        ({"status": 500, "error": ""}, "internal"),
        ({"status": 500, "error": "x", "outcome": "out_of_memory"}, "out_of_memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.get("error")),
)
def test_a_rust_runners_error_is_read_as_an_outcome(fields, outcome):
    assert response_from_json(envelope(**fields), MAX_BYTES).outcome == outcome


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("unknown_capabilities: cap:x SECRET", UnknownCapability),
        ("secret_decrypt_failed", SecretsUnavailable),
    ],
)
def test_what_no_outcome_says_is_an_error_of_its_own(error, expected):
    with pytest.raises(expected) as caught:
        response_from_json(envelope(status=400, error=error), MAX_BYTES)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("outcome", [outcome for outcome in OUTCOMES if outcome != "ok"])
def test_an_outcome_arrives_as_it_was_sent(outcome):
    data = response_to_json(ExecuteResponse(200, outcome=outcome, error="why"))
    assert json.loads(data)["error"].endswith(": why")
    assert response_from_json(data, MAX_BYTES).outcome == outcome


def test_a_gateway_that_knows_no_outcome_reads_the_same():
    old = json.loads(response_to_json(ExecuteResponse(200, outcome="timeout")))
    del old["outcome"]
    assert old["error"].partition(":")[0] in ERROR_PREFIXES
    assert response_from_json(json.dumps(old).encode(), MAX_BYTES).outcome == "timeout"


def refused_envelopes():
    """The corpus's envelopes that break the protocol whatever a handler may answer."""
    for case in CORPUS["cases"]:
        text = case["input"].get("envelope")
        if case["group"] == "envelope-response" and text and "problem" in case["expect"]:
            yield pytest.param(text.encode("latin-1"), id=f"{case['id']} {case['title']}")


# A body with 204, 205 or 304 is well-formed JSON: the answer is refused, not the envelope.
WELL_FORMED = ("E-126", "E-127", "E-128")


@pytest.mark.parametrize(
    "data", [p for p in refused_envelopes() if not p.id.startswith(WELL_FORMED)]
)
def test_the_corpus_envelopes_are_refused_without_their_text(data):
    with pytest.raises(BadRunnerResponse) as caught:
        response_from_json(data, MAX_BYTES)
    assert "SECRET" not in str(caught.value) + caught.value.detail


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(envelope(outcome="great"), id="an outcome nobody knows"),
        pytest.param(envelope(header_list=[["a"]]), id="half a pair"),
        pytest.param(envelope(header_list={"a": "b"}), id="a header list that is an object"),
        pytest.param(envelope(headers={f"x-{i}": "" for i in range(65)}), id="65 headers"),
        pytest.param(envelope(headers={"x-ext-a": "a" * 33_000}), id="33 kB of headers"),
        pytest.param(b'{"status":' + b"9" * 5000 + b"}", id="5000 digits"),
        pytest.param(b"[" * 100_000, id="100000 brackets"),
        pytest.param(envelope(status=True), id="a bool as status"),
        pytest.param(envelope(body_b64="A" * (MAX_BYTES + 4)), id="above the limit"),
        pytest.param(envelope(timings={f"t{i}": 1 for i in range(33)}), id="33 timings"),
        pytest.param(envelope(timings={"t" * 65: 1}), id="a long timing"),
    ],
)
def test_an_envelope_that_is_none_is_refused(data):
    with pytest.raises(BadRunnerResponse):
        response_from_json(data, MAX_BYTES)


def test_a_runner_does_not_fill_the_gateways_log():
    data = envelope(logs=[["info", "x"]] * 10_005)
    logs = response_from_json(data, len(data)).logs
    assert len(logs) == 10_001
    assert (logs[-1].level, logs[-1].message) == ("warn", "5 more log lines were dropped: too many")


texts = st.text(max_size=20)
tokens = st.text("abcdefghij-0123456789", min_size=1, max_size=12)
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
requests = st.builds(
    ExecuteRequest,
    st.builds(
        Context,
        tenant_id=texts,
        extension_id=texts,
        content_hash=st.just(HASH),
        install_id=st.none() | texts,
        config=st.dictionaries(texts, texts, max_size=3),
    ),
    st.builds(
        HttpRequest,
        method=st.sampled_from(METHODS),
        path=texts.map("/".__add__),
        query_string=values,
        headers=st.dictionaries(tokens, values, max_size=4).map(lambda d: tuple(d.items())),
        body=st.none() | st.binary(max_size=40),
    ),
    st.builds(
        Limits,
        st.integers(1, 600_000),
        st.integers(1, 4096),
        st.none() | st.integers(0, 2**40),
    ),
    providers=st.lists(texts, max_size=3).map(tuple),
    user=st.none() | st.builds(User, texts, texts, texts, texts, client_id=st.none() | texts),
    egress=st.lists(texts, max_size=3).map(tuple),
)
responses = st.builds(
    ExecuteResponse,
    st.integers(200, 599),
    st.lists(st.tuples(tokens, values), max_size=5).map(tuple),
    st.none() | st.binary(max_size=40),
)


@settings(max_examples=60, deadline=None)
@given(requests)
def test_every_request_comes_back(request):
    assert request_from_json(request_to_json(request)) == request


@settings(max_examples=60, deadline=None)
@given(responses)
def test_every_response_comes_back(response):
    assert response_from_json(response_to_json(response), MAX_BYTES) == response


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8")))
def test_no_bytes_at_all_do_anything_but_parse_or_be_refused(data):
    with contextlib.suppress(BadRunnerResponse):
        response_from_json(data, MAX_BYTES)
