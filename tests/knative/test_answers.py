"""Every answer that a platform gives in a runner's place: what the caller gets, and what was run.

A real runner executes; the double of Knative says the answers of its catalogue before it.
"""

import json
import time

import pytest
from knative_double import double
from knative_site import KnativeSite
from platform_rows import ROWS
from support import EXTENSION
from switching import until

from runnerwsgi import retries
from runnerwsgi.protocol import Bundle

BODY = b"hello"
# By row of the catalogue: the status and the code that a caller gets when it does not pass.
NOT_EXECUTED = {
    "ingress: no such host": (502, "backend-unreachable"),
    "activator: no such revision": (502, "backend-unreachable"),
    "queue-proxy: nobody listens": (503, "backend-starting"),
    "activator: no way to the pod": (503, "backend-starting"),
    "queue-proxy: full": (503, "overloaded"),
    "Envoy: nobody is well": (503, "backend-starting"),
    "Envoy: no connection": (503, "backend-starting"),
    "Envoy: no connection, older": (503, "backend-starting"),
    "Envoy: no connection in time": (503, "backend-starting"),
    "Envoy: too many at once": (503, "backend-starting"),
}
UNKNOWN = [name for name, row in ROWS.items() if row.ran == "unknown"]
NEVER_RIGHT = {
    "activator: taken for a kubelet's probe": (502, "bad-runner-response"),
    "a probe: the answer of a queue-proxy": (502, "bad-runner-response"),
    "a probe: the answer of an activator": (502, "bad-runner-response"),
    "a probe: the hash and nothing else": (502, "bad-runner-response"),
    "a probe: not of this kind": (502, "bad-runner-response"),
    "a probe: without a hash": (502, "bad-runner-response"),
    "ingress: moved to https": (502, "bad-runner-response"),
    "ingress: moved for good": (502, "bad-runner-response"),
    "a body too large": (413, "body-too-large"),
    "Envoy: headers too large": (502, "bad-runner-response"),
    "Go: headers too large": (502, "bad-runner-response"),
}
# What only those between the gateway and the runner say.
PLATFORM_WORDS = (
    *("envoy", "knative", "activator", "queue-proxy", "upstream", "dial", "127.0.0.1", "10.42."),
    *("request timeout", "reset reason", "eof", "pending", "probe", "revision", "something new"),
)
# Where an answer was cut, what a guest said stands before: that is nobody's but its caller's.
CUT = '"body_b64":"'
CASES = {**NOT_EXECUTED, **NEVER_RIGHT, **dict.fromkeys(UNKNOWN, (504, "outcome-unknown"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def knative(folder):
    with double(folder / "home") as made, KnativeSite(folder, made.url) as site:
        assert site.call("POST", body=BODY).status == 200
        yield made


@pytest.fixture
def site(folder, knative, monkeypatch):
    """Its own gateway in each test: its breaker is closed and its retries are unspent."""
    monkeypatch.setattr(retries, "PAUSE_SECONDS", 0.01)
    with KnativeSite(folder, knative.url) as made:
        knative.ingress.unsaid.clear()
        yield made


def counted(knative, act):
    """What came of *act*, and how many calls runners executed meanwhile."""
    before = knative.executed
    return act(), knative.executed - before


def post(site, **more):
    return site.call("POST", body=BODY, **more)


def check_words(answer, row, logged):
    """That a caller is told nothing of what a platform said, and the log is, to find out who."""
    assert answer.header("content-type") == "application/problem+json"
    shown = json.dumps([answer.headers, answer.body.decode()]).lower()
    assert [word for word in PLATFORM_WORDS if word in shown] == []
    said = ROWS[row].text.rpartition(CUT)[2]
    assert " ".join(said.split())[:120] in logged.replace('\\"', '"')
    assert CUT not in logged


def test_the_table_has_every_row_of_the_catalogue():
    assert sorted(CASES) == sorted(ROWS)


@pytest.mark.parametrize("row", NOT_EXECUTED)
def test_what_nobody_executed_is_sent_again_and_executed_once(site, knative, row):
    knative.say(row, times=2)
    answer, executed = counted(knative, lambda: post(site))
    assert (answer.status, answer.body, executed) == (200, BODY, 1)
    assert knative.unsaid == 0


@pytest.mark.parametrize(("row", "told"), NOT_EXECUTED.items())
def test_what_nobody_executes_is_tried_three_times_and_told(site, knative, row, told, caplog):
    knative.say(row, times=9)
    answer, executed = counted(knative, lambda: post(site))
    assert (answer.status, answer.code, executed) == (*told, 0)
    assert knative.unsaid == 6
    assert (answer.header("retry-after") is not None) == (answer.status == 503)
    check_words(answer, row, caplog.text)
    # An ingress that repeats calls tells of its last try alone: the key is told here too.
    knative.ingress.unsaid.clear()
    repeated = post(site, HTTP_IDEMPOTENCY_KEY=answer.json["idempotency_key"])
    assert (repeated.status, repeated.body) == (200, BODY)


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
@pytest.mark.parametrize("row", UNKNOWN)
def test_what_may_have_been_is_sent_once_and_its_key_told(site, knative, row, executed, caplog):
    knative.say(row, times=3, executed=executed)
    answer, count = counted(knative, lambda: post(site))
    assert (answer.status, answer.code, count) == (504, "outcome-unknown", executed)
    assert knative.unsaid == 2
    check_words(answer, row, caplog.text)
    # The same request, with the key that the caller was told: executed once in all.
    knative.ingress.unsaid.clear()
    repeated = post(site, HTTP_IDEMPOTENCY_KEY=answer.json["idempotency_key"])
    assert (repeated.status, repeated.body) == (200, BODY)
    assert in_logs(knative, answer, repeated) == 1


@pytest.mark.parametrize("row", UNKNOWN)
def test_a_safe_call_is_sent_again_although_it_may_have_been_executed(site, knative, row):
    knative.say(row, executed=True)
    answer, executed = counted(knative, site.call)
    assert (answer.status, executed) == (200, 2)


@pytest.mark.parametrize(("row", "told"), NEVER_RIGHT.items())
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_what_no_try_makes_right_is_told_at_once(site, knative, method, row, told, caplog):
    caplog.set_level("INFO")
    knative.say(row, times=3)
    answer, executed = counted(knative, lambda: site.call(method))
    assert (answer.status, answer.code, executed) == (*told, 0)
    assert knative.unsaid == 2
    check_words(answer, row, caplog.text)


@pytest.mark.parametrize("row", [*NOT_EXECUTED, *UNKNOWN])
def test_a_bundle_is_made_ready_whoever_answered_first(site, knative, row):
    knative.say(row, path="/warmup")
    site.gateway.warm_up(Bundle("t1", EXTENSION, site.bundle.content_hash))
    assert knative.unsaid == 0


@pytest.mark.parametrize("row", [*NOT_EXECUTED, *UNKNOWN])
def test_a_file_is_fetched_again_whoever_answered_first(site, knative, row):
    site.app._assets._cache.clear()
    knative.say(row, path=None)
    answer = site.file("app.js")
    assert (answer.status, answer.body) == (200, b"console.log(1)")
    assert knative.unsaid == 0


@pytest.mark.parametrize(("row", "told"), NEVER_RIGHT.items())
def test_a_file_that_is_not_to_be_had_shows_nothing_of_a_platform(site, knative, row, told):
    knative.say(row, times=9, path=None)
    answer = site.file("app.js")
    assert answer.status >= 400
    assert [word for word in PLATFORM_WORDS if word in answer.body.decode().lower()] == []


def in_logs(knative, *answers):
    """How many executions the runners' logs tell of, of the calls that were answered so."""
    wanted = {answer.header("x-request-id") for answer in answers}

    def count():
        lines = [line for pod in knative.pods for line in pod.said]
        return sum(one.get("event") == "execute" and one["request_id"] in wanted for one in lines)

    until(count)
    time.sleep(0.2)  # a second one would come about now
    return count()
