"""The double as a whole: what callers see of a service that sleeps, wakes, is full or fails."""

import threading
import time

import pytest
from asking import ask, ask_at_once
from hops import Clock
from knative_double import double
from peers import always, peer
from platform_rows import FULL, ROWS
from servers import serving
from wheels import ROOT

from runnerwsgi import canary, wire

MARK = "x-runner"
CALL = {
    "method": "POST",
    "target": "/v1/execute",
    "body": wire.request_to_json(canary.call("hello", 5000)),
    "Content_Type": "application/json",
}


def is_answered(heard):
    """Whether the runner executed the call, and its answer came."""
    if heard.status != 200:
        return False
    return wire.response_from_json(heard.text.encode(), 1 << 20).body == b"hello"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def up(home):
    """One pod, reached without the activator; tests leave it as it is."""
    with double(home) as knative:
        yield knative


@pytest.fixture
def asleep():
    """Scaled to zero; its container is a peer that says ok."""
    with double(None, pods=0, start=lambda: peer(always())) as knative:
        yield knative


def test_a_call_goes_through_to_a_real_runner(up):
    before = up.executed
    heard = ask(up.url, **CALL)
    assert is_answered(heard)
    assert heard.headers["server"] == "envoy"
    assert MARK in heard.headers
    assert up.executed == before + 1
    assert up.pods[0].runner.process.poll() is None


def test_the_first_call_starts_a_runner_and_all_who_came_are_answered(home):
    # As many slots as callers: they are all let in at the same moment.
    with double(home, pods=0, env={"RUNNER_THREADS": "40"}) as knative:
        answers = ask_at_once(16, knative.url, **CALL)
        assert all(map(is_answered, answers))
        assert (knative.started, knative.executed, knative.activator.waiting) == (1, 16, 0)
        seen = [headers for *_, headers in knative.pods[0].proxy.seen]
        assert {headers["K-Proxy-Request"] for headers in seen} == {"activator"}
        knative.scale(0)
        assert is_answered(ask(knative.url, **CALL))
        assert (knative.started, knative.executed) == (2, 17)
    assert knative.finished == 17


def test_who_waits_too_long_for_a_pod_gets_504_and_nothing_was_executed():
    with double(None, pods=0, timeout=0.3, start=lambda: peer(always())) as knative:
        knative.hold = True
        heard = ask(knative.url, **CALL)
        assert heard.said == (504, "activator request timeout")
        assert 0.2 < heard.seconds < 1
        assert knative.executed == 0


@pytest.mark.parametrize("timer", ["response_start", "idle"])
def test_the_other_timers_run_during_a_cold_start_too(timer):
    with double(None, pods=0, start=lambda: peer(always()), **{timer: 0.2}) as knative:
        knative.hold = True
        assert ask(knative.url, **CALL).said == (504, "activator request timeout")


# What it takes for a probe, whatever is asked: headers, and the answer that is no runner's.
TAKEN_FOR_PROBES = {
    "a kubelet's agent": ({"User_Agent": "kube-probe/1.30"}, (200, "")),
    "a kubelet's header": ({"K_Kubelet_Probe": "1"}, (200, "")),
    "the network's": ({"K_Network_Probe": "probe", "K_Network_Hash": "n0nce"}, (200, "")),
    "the network's, without a hash": (
        {"K_Network_Probe": "probe"},
        (400, ROWS["a probe: without a hash"].text),
    ),
    "the activator's own": ({"K_Network_Probe": "activator"}, (200, "activator")),
    "the autoscaler's": (
        {"K_Network_Probe": "queue", "User_Agent": "Knative-Autoscaling-Probe"},
        (400, 'unexpected probe header value: "queue"\n'),
    ),
}


@pytest.mark.parametrize("case", TAKEN_FOR_PROBES.values(), ids=TAKEN_FOR_PROBES)
def test_a_probe_wakes_nobody(asleep, case):
    headers, said = case
    heard = ask(asleep.url, **CALL, **headers)
    assert heard.said == said
    assert MARK not in heard.headers
    assert heard.headers.get("k-network-hash") == headers.get("K_Network_Hash")
    assert (asleep.started, asleep.executed) == (0, 0)


def test_any_other_request_wakes_it(asleep):
    assert ask(asleep.url).said == (200, "ok")
    assert asleep.started == 1


def test_a_revision_that_is_gone_is_not_found(asleep):
    asleep.activator.revision = "runner-00002"
    status, text = ask(asleep.url, **CALL).said
    assert status == 404
    assert text.startswith("Error getting active endpoint: revision.serving.knative.dev ")
    assert asleep.started == 0


def test_one_too_many_in_the_activators_queue_is_refused():
    settings = {"concurrency": 1, "queue_depth": 3}
    with double(None, pods=0, start=lambda: peer(always()), **settings) as knative:
        knative.hold = True
        answers = []
        waiting = threading.Thread(target=lambda: answers.extend(ask_at_once(3, knative.url)))
        waiting.start()
        until(lambda: knative.activator.waiting == 3)
        assert ask(knative.url).said == (503, FULL)
        knative.hold = False
        waiting.join()
    assert [heard.said for heard in answers] == [(200, "ok")] * 3


def test_behind_the_activator_more_wait_than_a_pod_would_have_wait(home):
    with double(home, concurrency=1, through_activator=True) as knative:
        assert all(map(is_answered, ask_at_once(30, knative.url, **CALL)))
        assert knative.pods[0].proxy.peak == 1


def test_who_leaves_while_it_waits_is_executed_all_the_same(asleep):
    # Go does not look for the end of a connection before it has read the request's body.
    asleep.hold = True
    assert ask(asleep.url, **CALL, timeout=0.2).status is None
    assert asleep.executed == 0
    asleep.hold = False
    until(lambda: asleep.executed == 1)


def test_a_host_that_nobody_serves_is_envoys_404():
    with double(None, hosts={"runner.default.svc"}, start=lambda: peer(always())) as knative:
        assert ask(knative.url, Host="runner.default.svc:80").said == (200, "ok")
        heard = ask(knative.url, Host="runner")
    assert heard.said == (404, "")
    assert heard.headers["server"] == "envoy"


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_catalogue_is_said_once_and_to_a_call(up, name):
    before, row = up.executed, ROWS[name]
    up.say(name)
    assert ask(up.url, target="/health/liveness").headers[MARK]
    heard = ask(up.url, **CALL)
    assert heard.said == (row.status, row.text)
    assert MARK not in heard.headers
    assert (up.executed, up.unsaid) == (before, 0)
    assert is_answered(ask(up.url, **CALL))


def test_an_answer_may_be_lost_after_the_call_was_executed(up):
    before = up.executed
    up.say("queue-proxy: the container ended", executed=True)
    assert ask(up.url, **CALL).said == (502, "EOF\n")
    assert up.executed == before + 1


def test_a_killed_runner_is_missed_and_a_new_one_serves(home):
    with double(home) as knative:
        [pod] = knative.pods
        pod.kill()
        heard = ask(knative.url, **CALL)
        assert heard.status == 502
        assert "connect: connection refused" in heard.text
        assert knative.executed == 0
        pod.restart()
        assert is_answered(ask(knative.url, **CALL))
        assert (knative.executed, knative.started) == (1, 1)


def test_a_pod_that_is_gone_is_envoys_to_tell(home):
    with double(home) as knative:
        knative.pods[0].proxy.close()
        heard = ask(knative.url, **CALL)
        assert heard.said == (503, ROWS["Envoy: no connection"].text)


def test_a_pod_that_drains_answers_what_it_has(home):
    with double(home, pods=2) as knative:
        answers = []
        callers = threading.Thread(
            target=lambda: answers.extend(ask_at_once(8, knative.url, **CALL))
        )
        callers.start()
        knative.drain(knative.pods[0])
        callers.join()
        assert all(map(is_answered, answers))
        assert is_answered(ask(knative.url, **CALL))
        assert (knative.executed, knative.started) == (9, 2)


def test_it_runs_as_a_process(tmp_path):
    script = ROOT / "tests" / "knative_double.py"
    command = ("python", str(script), "--home", str(tmp_path), "--through-activator")
    with serving(*command, cwd=tmp_path, env=None) as process:
        assert is_answered(ask(process.url, **CALL))


def test_a_clock_knows_which_of_its_timers_ends_first():
    clock = Clock(timeout=100, start=10, idle=50)
    assert 9 < clock.left <= 10
    clock.wrote()
    assert 49 < clock.left <= 50


def until(fact, seconds=10):
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.01)
