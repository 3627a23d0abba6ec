"""What really goes wrong between a gateway and a runner on Knative: nothing here is scripted.

Each fault is made: a pod is frozen, killed or drained, a queue is full, time is over.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from knative_double import double
from knative_site import KnativeSite
from peers import OK, each, peer, unused_port
from support import EXTENSION

from runnerwsgi.protocol import Bundle

BODY = b"hello"
MARKED = b"X-Runner: runnerwsgi/9\r\n"
ENVELOPE = b'{"status":200,"headers":{},"body_b64":"aGVsbG8="}'
CHUNKED = b"HTTP/1.1 200 OK\r\n%sTransfer-Encoding: chunked\r\n\r\n" % MARKED
UNKNOWN = (504, "outcome-unknown")


def post(site, **more):
    return site.call("POST", body=BODY, **more)


def told(answer):
    """The status of a problem, and its code."""
    return answer.status, answer.code


def sized(body, length=None):
    """An answer of a runner, whole unless it says that it is longer."""
    head = b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n"
    return head % (MARKED, len(body) if length is None else length) + body


def container(data, seconds=0.0):
    """How to start a container that is ready, and answers a call with *data* and then silence."""

    def script(talk):
        request = talk.request()
        if request.startswith(b"GET /health"):
            talk.send(OK)
        elif request:
            talk.send(data)
            talk.sock.settimeout(seconds or 0.001)
            talk.sock.recv(1)

    return lambda: peer(script)


@pytest.fixture
def world(tmp_path):
    """One pod, and a site before it, which has called once."""
    with double(tmp_path / "home") as knative, KnativeSite(tmp_path, knative.url) as site:
        assert post(site).status == 200
        yield knative, site


# Time.


def test_a_hanging_pod_is_cut_off_by_the_platform_and_still_executes(tmp_path):
    with (
        double(tmp_path / "home", timeout=0.5) as knative,
        KnativeSite(tmp_path, knative.url) as site,
    ):
        knative.pods[0].freeze()
        answer = post(site)
        assert told(answer) == UNKNOWN
        key = {"HTTP_IDEMPOTENCY_KEY": answer.json["idempotency_key"]}
        # Asked again: the same pod hangs still, and nothing is executed twice later on.
        assert told(post(site, **key)) == UNKNOWN
        knative.pods[0].thaw()
        until(lambda: knative.finished == 1)
        again = post(site, **key)
        assert (again.status, again.body) == (200, BODY)
        assert knative.finished == 1


def test_our_own_time_ends_first_and_nothing_is_sent_twice(tmp_path):
    with (
        double(tmp_path / "home") as knative,
        KnativeSite(tmp_path, knative.url, timeout_ms=700) as site,
    ):
        knative.pods[0].freeze()
        started = time.monotonic()
        assert told(post(site)) == UNKNOWN
        assert 0.4 < time.monotonic() - started < 5
        assert told(site.call()) == (504, "deadline-exceeded")
        assert knative.executed == 2
        knative.pods[0].thaw()


def test_a_pod_that_never_comes_is_unknown_to_who_waited_and_nothing_ran(tmp_path):
    with (
        double(tmp_path / "home", pods=0, timeout=0.4) as knative,
        KnativeSite(tmp_path, knative.url) as site,
    ):
        knative.hold = True
        assert told(post(site)) == UNKNOWN
        assert knative.executed == 0


CUT_SHORT = {
    "chunks, in the middle": CHUNKED + b"9\r\n%s\r\n" % ENVELOPE[:9],
    "chunks, before the last": CHUNKED + b"%x\r\n%s\r\n" % (len(ENVELOPE), ENVELOPE),
    "a length, in the middle": sized(ENVELOPE[:9], len(ENVELOPE)),
    "chunks, after the head": CHUNKED,
    "a length, after the head": sized(b"", len(ENVELOPE)),
}


@pytest.mark.parametrize("seconds", [0, 2], ids=["broken off", "out of time"])
@pytest.mark.parametrize("data", CUT_SHORT.values(), ids=CUT_SHORT)
def test_an_answer_that_was_cut_is_no_answer(tmp_path, data, seconds):
    with (
        double(None, timeout=0.3, start=container(data, seconds)) as knative,
        KnativeSite(tmp_path, knative.url) as site,
    ):
        assert told(post(site)) == UNKNOWN
        assert knative.executed == 1


def test_a_cold_start_takes_part_of_a_calls_time_and_is_told(tmp_path):
    with double(tmp_path / "home", pods=0) as knative, KnativeSite(tmp_path, knative.url) as site:
        answer = post(site)
        assert (answer.status, answer.body) == (200, BODY)
        assert "cold;dur=" in answer.header("server-timing")
        assert "cold" not in post(site).header("server-timing")
        assert (knative.started, knative.executed) == (1, 2)


# Pods.


def test_a_pod_whose_container_was_killed_is_starting_until_the_next_one_serves(world):
    knative, site = world
    knative.pods[0].kill()
    answer = post(site)
    assert told(answer) == (503, "backend-starting")
    assert answer.header("retry-after")
    knative.pods[0].restart()
    assert post(site).status == 200
    assert knative.executed == 2


def test_who_is_in_a_pod_that_is_killed_cannot_know(world):
    knative, site = world
    pod = knative.pods[0]
    with ThreadPoolExecutor(2) as pool:
        pod.freeze()
        posted, got = pool.submit(post, site), pool.submit(site.call)
        until(lambda: pod.proxy.busy == 2)
        pod.kill()
        assert told(posted.result()) == UNKNOWN
        # It was sent once more, and nobody was there; the first time may have been executed.
        assert told(got.result()) == UNKNOWN
    assert knative.executed == 3


def test_one_of_two_pods_is_drained_and_nobody_notices(tmp_path):
    with (
        double(tmp_path / "home", pods=2, quiet=0.2) as knative,
        KnativeSite(tmp_path, knative.url) as site,
        ThreadPoolExecutor(4) as pool,
    ):
        draining = pool.submit(knative.drain, knative.pods[0])
        answers = list(pool.map(lambda _: post(site).status, range(40)))
        draining.result()
        assert answers == [200] * 40
        until(lambda: knative.finished == 40)


def test_a_pod_that_vanished_is_no_way_to_the_service(world):
    knative, site = world
    knative.pods[0].proxy.close()
    assert told(post(site)) == (503, "backend-starting")
    assert site.call("GET").status == 503
    assert knative.executed == 1


def test_where_pods_share_their_keys_a_lost_answer_is_asked_for_again(tmp_path):
    keys = {"RUNNER_IDEMPOTENCY_URL": f"sqlite:///{tmp_path}/keys.db"}
    with (
        double(tmp_path / "home", pods=2, env=keys) as knative,
        KnativeSite(tmp_path, knative.url) as site,
    ):
        assert post(site).status == 200
        for number in range(2, 6):
            knative.say("queue-proxy: the container ended", executed=True)
            answer = post(site)
            assert (answer.status, answer.body) == (200, BODY)
            assert knative.executed == 2 * number - 1
            until(lambda number=number: knative.finished == number)


def test_a_bundle_is_made_ready_before_the_first_call_needs_a_pod(tmp_path):
    own_code = {"RUNNER_WASM_CACHE_DIR": str(tmp_path / "code")}
    with (
        double(tmp_path / "home", pods=0, env=own_code) as knative,
        KnativeSite(tmp_path, knative.url) as site,
    ):
        bundle = Bundle("t1", EXTENSION, site.bundle.content_hash)
        assert site.gateway.warm_up(bundle).compiled
        assert not site.gateway.warm_up(bundle).compiled
        assert knative.started == 1


# Load.


def test_a_service_that_nobody_reaches_is_left_alone_for_a_while(tmp_path):
    with KnativeSite(tmp_path, f"http://127.0.0.1:{unused_port()}") as site:
        assert [told(post(site)) for _ in range(2)] == [(502, "backend-unreachable")] * 2
        started = time.monotonic()
        answer = post(site)
        assert told(answer) == (503, "overloaded")
        assert 1 <= int(answer.header("retry-after")) <= 5
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("size", [200_000, 8_000_000], ids=["read", "cut off"])
def test_a_body_that_is_too_large_for_the_runner_is_not_executed(tmp_path, size):
    env = {"RUNNER_MAX_BODY_BYTES": "100000"}
    with (
        double(tmp_path / "home", env=env) as knative,
        KnativeSite(tmp_path, knative.url, max_body_bytes=10_000_000) as site,
    ):
        answer = site.call("POST", body=b"x" * size)
        # Its 413 may be lost, where the connection ends before the whole body was sent.
        assert told(answer) in [(413, "body-too-large"), UNKNOWN]
        assert site.call("POST", body=BODY).status == 200
        until(lambda: knative.finished == 1)


def test_more_than_a_queue_holds_are_told_when_to_come_again(tmp_path):
    with (
        double(tmp_path / "home", concurrency=1) as knative,
        KnativeSite(tmp_path, knative.url) as site,
        ThreadPoolExecutor(16) as pool,
    ):
        knative.pods[0].freeze()
        calls = [pool.submit(post, site) for _ in range(16)]
        until(lambda: sum(call.done() for call in calls) == 5)
        knative.pods[0].thaw()
        answers = [call.result() for call in calls]
        refused = [answer for answer in answers if answer.status != 200]
        assert [told(answer) for answer in refused] == [(503, "overloaded")] * 5
        assert all(answer.header("retry-after") for answer in refused)
        assert knative.executed == 11


def test_what_the_runner_itself_refuses_is_not_sent_again(tmp_path):
    problem = json.dumps({"code": "overloaded", "status": 503}).encode()
    head = b"HTTP/1.1 503 X\r\n%sRetry-After: 7\r\nContent-Length: %d\r\n\r\n"
    busy = head % (MARKED, len(problem)) + problem
    with (
        double(None, start=container(busy)) as knative,
        KnativeSite(tmp_path, knative.url) as site,
    ):
        answer = post(site)
        assert told(answer) == (503, "overloaded")
        assert answer.header("retry-after") == "7"
        assert knative.ingress.forwarded == 1


# The way there.


def test_nobody_at_the_address_is_told_after_three_tries(tmp_path, caplog):
    with KnativeSite(tmp_path, f"http://127.0.0.1:{unused_port()}") as site:
        assert told(post(site)) == (502, "backend-unreachable")
    assert caplog.text.count("executed=no") == 3


def test_a_name_that_nobody_has_is_told_after_three_tries(tmp_path, caplog):
    with KnativeSite(tmp_path, "http://runner.nowhere.invalid") as site:
        assert told(post(site)) == (502, "backend-unreachable")
    assert caplog.text.count("executed=no") == 3


def test_an_ingress_that_drops_a_kept_connection_leaves_the_outcome_open(tmp_path):
    # It takes the second call, and ends: a connection that both believed to be alive.
    def dies(talk):
        talk.request()
        talk.send(sized(ENVELOPE))
        talk.request()

    with peer(dies, each(*[sized(ENVELOPE)] * 9)) as ingress:
        with KnativeSite(tmp_path, ingress.url) as site:
            assert post(site).status == 200
            assert told(post(site)) == UNKNOWN
        assert len(ingress.requests) == 2
    with peer(dies, each(*[sized(ENVELOPE)] * 9)) as ingress:
        with KnativeSite(tmp_path, ingress.url) as site:
            assert post(site).status == 200
            assert site.call().status == 200
        assert ingress.connections == 2


# What end users send.


@pytest.mark.parametrize("through_activator", [True, False], ids=["activator", "queue-proxy"])
def test_no_header_of_an_end_user_is_taken_for_a_platforms(tmp_path, through_activator):
    sent = {
        "HTTP_USER_AGENT": "kube-probe/1.30",
        "HTTP_K_KUBELET_PROBE": "1",
        "HTTP_K_NETWORK_PROBE": "probe",
        "HTTP_K_NETWORK_HASH": "override",
        "HTTP_K_ORIGINAL_HOST": "evil.test",
        "HTTP_K_PROXY_REQUEST": "activator",
        "HTTP_K_PASSTHROUGH_LB": "true",
        "HTTP_KNATIVE_SERVING_REVISION": "evil-00001",
        "HTTP_KNATIVE_SERVING_NAMESPACE": "evil",
        "HTTP_KNATIVE_SERVING_TAG": "evil",
        "HTTP_KNATIVE_SERVING_DEFAULT_ROUTE": "true",
        "HTTP_X_ENVOY_RETRY_ON": "5xx",
        "HTTP_X_ENVOY_MAX_RETRIES": "9",
        "HTTP_FORWARDED": "host=evil.test",
        "HTTP_X_FORWARDED_HOST": "evil.test",
    }
    with (
        double(tmp_path / "home", through_activator=through_activator) as knative,
        KnativeSite(tmp_path, knative.url) as site,
    ):
        for name, value in sent.items():
            answer = post(site, **{name: value})
            assert (answer.status, answer.body) == (200, BODY), name
        assert post(site, **sent).status == 200
        assert knative.executed == len(sent) + 1
        seen = json.dumps([headers for *_, headers in knative.ingress.seen])
    assert "evil" not in seen
    assert "kube-probe" not in seen
    assert "x-envoy-retry-on" not in seen.lower()


def until(fact, seconds=10):
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.01)
