"""The double of the queue-proxy, and where one is given the real one: the same in each case."""

import select
import threading
import time
from contextlib import contextmanager

import pytest
from asking import ask, ask_at_once
from knative_double import QueueProxy
from peers import OK, always, peer, unused_port
from queue_proxy_binary import BINARY, real_queue_proxy

FULL = (503, "pending request queue full\n")
LATE = (504, "request timeout")
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"


class Kind:
    """How one is started, and what a second is for it."""

    def __init__(self, start, second):
        self.start, self.second = start, second

    @contextmanager
    def before(self, *scripts, **timers):
        """One before a container that follows *scripts*; timers are in its seconds."""
        scaled = {name: value * self.second for name, value in timers.items() if name != "places"}
        places = {"concurrency": timers["places"]} if "places" in timers else {}
        with peer(*scripts) as container, self.start(container.url, **scaled, **places) as proxy:
            yield proxy, container


KINDS = {"the double": Kind(QueueProxy, 0.3)}
if BINARY:
    KINDS["the real one"] = Kind(real_queue_proxy, 1)


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request):
    return request.param


def after(seconds, data=OK):
    """A script of a container that takes its time."""

    def script(talk):
        while talk.request():
            wait(talk, seconds)
            talk.send(data)

    return script


def bursts(*parts):
    """A script that sends bytes, and waits where it finds a number of seconds."""

    def script(talk):
        talk.request()
        for part in parts:
            talk.send(part) if isinstance(part, bytes) else wait(talk, part)

    return script


def wait(talk, seconds):
    """Let time pass, as long as somebody is there who waits."""
    select.select([talk.sock], [], [], seconds)


@pytest.mark.parametrize(
    "target", ["/a%2Fb", "/a//b", "/a/../b", "/%2e%2e/a", "/a%00b", "/a?b=%zz&c=//"]
)
def test_path_and_query_arrive_byte_for_byte(kind, target):
    with kind.before(always()) as (proxy, container):
        assert ask(proxy.url, target=target).said == (200, "ok")
    assert container.requests[0].startswith(b"GET %s HTTP/1.1\r\n" % target.encode())


def test_a_call_arrives_with_its_body_and_its_headers(kind):
    sent = {"Authorization": "Bearer x", "Idempotency_Key": "k", "Content_Type": "application/x"}
    with kind.before(always()) as (proxy, container):
        ask(proxy.url, "POST", "/", b"hello", Host="runner.test", **sent)
    [request] = container.requests
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert body == b"hello"
    assert {
        *("host: runner.test", "authorization: bearer x", "idempotency-key: k"),
        *("content-type: application/x", "content-length: 5"),
    } <= set(lines)
    assert any(line.startswith("forwarded: ") for line in lines)


def test_a_body_in_chunks_arrives_in_chunks(kind):
    heads = []

    def script(talk):
        heads.append(talk.head())
        talk.send(OK)

    with kind.before(script) as (proxy, _):
        ask(proxy.url, "POST", "/", iter([b"a", b"b"]), chunked=True, Transfer_Encoding="chunked")
    assert b"transfer-encoding: chunked" in heads[0].lower()


def test_who_names_another_host_has_it_replaced(kind):
    with kind.before(always()) as (proxy, container):
        ask(proxy.url, Host="runner.test", K_Original_Host="evil.test")
    assert b"host: evil.test\r\n" in container.requests[0].lower()


NOT_PASSED_ON = {
    "a kubelet's": ({"User_Agent": "kube-probe/1.30"}, (400, "unexpected probe header value: \n")),
    "an activator's, of no kind": (
        {"User_Agent": "Knative-Activator-Probe"},
        (400, "unexpected probe header value: \n"),
    ),
    "an activator's": (
        {"User_Agent": "Knative-Activator-Probe", "K_Network_Probe": "queue"},
        (200, "queue"),
    ),
    "an autoscaler's": (
        {"User_Agent": "Knative-Autoscaling-Probe", "K_Network_Probe": "queue"},
        (200, "queue"),
    ),
    "an autoscaler's, of another kind": (
        {"User_Agent": "Knative-Autoscaling-Probe", "K_Network_Probe": "activator"},
        (400, "unexpected probe header value: activator\n"),
    ),
    "the network's": ({"K_Network_Probe": "probe", "K_Network_Hash": "n0nce"}, (200, "")),
    "the network's, without a hash": (
        {"K_Network_Probe": "probe"},
        (400, 'a probe request must contain a non-empty "K-Network-Hash" header\n'),
    ),
}


@pytest.mark.parametrize("case", NOT_PASSED_ON.values(), ids=NOT_PASSED_ON)
def test_a_probe_is_answered_here(kind, case):
    headers, said = case
    with kind.before(always()) as (proxy, container):
        heard = ask(proxy.url, "POST", "/v1/execute", b"{}", **headers)
    assert heard.said == said
    assert not any(b"/v1/execute" in request for request in container.requests)
    assert heard.headers.get("k-network-hash") == headers.get("K_Network_Hash")


def test_a_probe_of_an_unknown_kind_is_a_request_like_any_other(kind):
    with kind.before(always()) as (proxy, container):
        assert ask(proxy.url, K_Network_Probe="other").said == (200, "ok")
    assert len(container.requests) == 1


def test_so_many_run_ten_times_as_many_wait_and_one_more_is_refused_at_once(kind):
    with kind.before(after(0.1), places=1) as (proxy, container):
        answers = ask_at_once(14, proxy.url)
    assert [heard.said for heard in answers].count(FULL) == 3
    assert max(heard.seconds for heard in answers if heard.said == FULL) < 1
    assert len(container.requests) == 11


def test_what_says_it_is_a_kubelets_passes_those_who_wait(kind):
    with kind.before(after(0.1), places=1) as (proxy, _):
        slow = threading.Thread(target=lambda: ask_at_once(11, proxy.url))
        slow.start()
        time.sleep(0.05)
        heard = ask(proxy.url, K_Kubelet_Probe="1")
        assert slow.is_alive()
        slow.join()
    assert heard.said == (200, "ok")


def test_who_waits_too_long_for_a_place_gets_504_and_was_never_executed(kind):
    slow = bursts(CHUNKED + b"2\r\nab\r\n", 2 * kind.second, b"0\r\n\r\n")
    with kind.before(slow, places=1, timeout=9, response_start=1) as (proxy, container):
        first = threading.Thread(target=lambda: ask(proxy.url))
        first.start()
        time.sleep(0.1)
        heard = ask(proxy.url, "POST", "/", b"x")
        first.join()
    assert heard.said == LATE
    assert len(container.requests) == 1


def test_a_time_out_before_an_answer_is_504_and_says_nothing_of_when_to_come_again(kind):
    with kind.before(after(3 * kind.second), timeout=1) as (proxy, container):
        heard = ask(proxy.url, "POST", "/", b"x")
    assert heard.said == LATE
    assert heard.headers["content-type"].startswith("text/plain")
    assert "retry-after" not in heard.headers
    assert len(container.requests) == 1


@pytest.mark.parametrize("timer", ["response_start", "idle"])
def test_both_other_timers_are_for_the_first_byte_too(kind, timer):
    with kind.before(after(3 * kind.second), timeout=9, **{timer: 1}) as (proxy, _):
        heard = ask(proxy.url)
    assert heard.said == LATE
    assert heard.seconds < 2 * kind.second


def test_when_an_answer_has_begun_the_first_ones_timer_means_nothing(kind):
    slow = bursts(CHUNKED + b"2\r\nab\r\n", 2 * kind.second, b"2\r\ncd\r\n0\r\n\r\n")
    with kind.before(slow, timeout=9, response_start=1) as (proxy, _):
        assert ask(proxy.url).said == (200, "abcd")


@pytest.mark.parametrize("timers", [{"timeout": 1}, {"timeout": 9, "idle": 1}], ids=str)
def test_a_time_out_within_an_answer_looks_like_its_end(kind, timers):
    slow = bursts(CHUNKED + b"2\r\nab\r\n", 3 * kind.second)
    with kind.before(slow, **timers) as (proxy, _):
        heard = ask(proxy.url)
    assert heard.said == (200, "abrequest timeout")
    assert not heard.cut


def test_an_answer_that_says_its_length_shows_that_it_was_cut(kind):
    with kind.before(bursts(SIZED + b"ab", 3 * kind.second), timeout=1) as (proxy, _):
        heard = ask(proxy.url)
    assert heard.cut
    assert heard.status in (200, None)


ENDS = {
    "without a word": (lambda talk: talk.request(), "EOF\n"),
    "with a reset": (lambda talk: (talk.request(), talk.reset()), "connection reset by peer\n"),
    "with nonsense": (
        lambda talk: (talk.request(), talk.send(b"nonsense\r\n\r\n")),
        "net/http: HTTP/1.x transport connection broken: malformed HTTP response",
    ),
}


@pytest.mark.parametrize("case", ENDS.values(), ids=ENDS)
def test_a_container_that_ends_is_told_in_gos_words(kind, case):
    script, text = case
    with kind.before(script) as (proxy, container):
        heard = ask(proxy.url, "POST", "/", b"x")
    assert heard.status == 502
    assert text in heard.text
    assert len(container.requests) == 1


def test_where_nobody_listens_it_says_that_it_could_not_dial(kind):
    target = f"http://127.0.0.1:{unused_port()}"
    with kind.start(target) as proxy:
        heard = ask(proxy.url, "POST", "/", b"x")
    place = target.removeprefix("http://")
    assert heard.said == (502, f"dial tcp {place}: connect: connection refused\n")


def test_a_container_that_is_not_ready_is_told_to_who_asks_for_that(kind):
    asked = {"User_Agent": "Knative-Autoscaling-Probe", "K_Network_Probe": "queue"}
    with kind.start(f"http://127.0.0.1:{unused_port()}") as proxy:
        assert ask(proxy.url, **asked).said == (503, "")


@pytest.mark.parametrize("head", [CHUNKED + b"5\r\nab", SIZED + b"ab"], ids=["chunks", "length"])
def test_an_answer_that_breaks_off_ends_the_connection(kind, head):
    with kind.before(bursts(head)) as (proxy, _):
        assert ask(proxy.url).cut


def test_what_the_container_says_of_when_to_come_again_passes(kind):
    busy = b"HTTP/1.1 503 X\r\nRetry-After: 7\r\nX-Runner: r\r\nContent-Length: 0\r\n\r\n"
    with kind.before(always(busy)) as (proxy, _):
        heard = ask(proxy.url)
    assert (heard.status, heard.headers["retry-after"], heard.headers["x-runner"]) == (
        503,
        "7",
        "r",
    )


def test_one_that_ends_fails_its_probes_and_serves_until_nobody_comes():
    with peer(always()) as container, QueueProxy(container.url, quiet=0.5) as proxy:
        ending = threading.Thread(target=proxy.drain)
        ending.start()
        for _ in range(4):
            time.sleep(0.2)
            probe = ask(proxy.url, K_Network_Probe="probe", K_Network_Hash="x")
            assert probe.said == (503, "shutting down\n")
            heard = ask(proxy.url, "POST", "/", b"x")
            assert heard.said == (200, "ok")
            assert "connection" not in heard.headers
        ending.join()
        assert ask(proxy.url).status is None


def test_one_that_ends_finishes_what_was_begun():
    answers = []
    with peer(after(0.6)) as container, QueueProxy(container.url, quiet=0.2) as proxy:
        caller = threading.Thread(target=lambda: answers.append(ask(proxy.url).said))
        caller.start()
        time.sleep(0.1)
        proxy.drain()
        caller.join()
    assert answers == [(200, "ok")]
