"""Exchanges over kept connections, with peers that break off, drip, lie about lengths, or hang."""

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from peers import OK, always, each, peer, silence, unused_port

from runnerwsgi.errors import (
    BackendStarting,
    BackendUnreachable,
    BadRunnerResponse,
    DeadlineExceeded,
    OutcomeUnknown,
)
from runnerwsgi.origins import Origin
from runnerwsgi.upstream import Route, Upstream, sendable

LARGE = bytes(16 * 1024 * 1024)  # more than the kernel takes at once


_made = []


@pytest.fixture(autouse=True)
def nothing_stays_open():
    yield
    while _made:
        _made.pop().close()


def upstream_at(place, **more):
    _made.append(Upstream(place, **more))
    return _made[-1]


def upstream_to(port, scheme="http", **more):
    return upstream_at(Origin(scheme, "127.0.0.1", port), **more)


def ask(upstream, method="GET", target="/x", *, timeout=5.0, max_bytes=1000, **more):
    return upstream.exchange(method, target, timeout=timeout, max_bytes=max_bytes, **more)


def test_a_request_is_framed_once_and_says_nothing_of_its_own():
    with peer(always()) as server:
        ask(upstream_to(server.port), "POST", "/v1?a=b", headers=[("X-A", "1")], body=b"hi")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    assert (first, body) == ("POST /v1?a=b HTTP/1.1", b"hi")
    assert [field.partition(":")[0] for field in fields] == [
        "Host",
        "User-Agent",
        "Accept-Encoding",
        "X-A",
        "Content-Length",
    ]


def test_a_connection_is_kept_and_used_again():
    with peer(always()) as server:
        upstream = upstream_to(server.port)
        for body in (None, b"", b"a body"):
            assert ask(upstream, "POST", body=body).body == b"ok"
    assert server.connections == 1


def test_a_closed_upstream_answers_what_is_under_way_and_keeps_nothing():
    with peer(always()) as server:
        upstream = upstream_to(server.port)
        ask(upstream)
        upstream.close()
        assert [ask(upstream).body for _ in range(2)] == [b"ok"] * 2
    assert server.connections == 3


def test_answers_never_cross_between_threads():
    def echo(talk):
        while request := talk.request():
            name = request.split(b" ")[1]
            talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name))

    with peer(echo) as server, ThreadPoolExecutor(8) as pool:
        upstream = upstream_to(server.port, idle=4)
        targets = [f"/{number}" for number in range(400)]
        answers = pool.map(lambda target: ask(upstream, target=target).body.decode(), targets)
        assert list(answers) == targets


def test_no_more_connections_are_kept_than_wanted():
    together = threading.Barrier(3)

    def script(talk):
        while talk.request():
            together.wait(5)
            talk.send(OK)

    with peer(script) as server, ThreadPoolExecutor(3) as pool:
        upstream = upstream_to(server.port, idle=2)
        for _ in range(2):
            assert len(list(pool.map(lambda _: ask(upstream), range(3)))) == 3
    assert server.connections == 4  # of three, one was not kept


# A kept connection that has died.


@pytest.mark.parametrize("end", ["close", "reset", "say something"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_that_dies_idle_costs_nobody_anything(method, end):
    ended = threading.Event()

    def script(talk):
        each(OK)(talk)
        if end == "reset":
            talk.reset()
        elif end == "say something":
            talk.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
            ended.set()
            talk.request()
        talk.sock.close()
        ended.set()

    with peer(script, always()) as server:
        upstream = upstream_to(server.port)
        ask(upstream)
        assert ended.wait(5)
        time.sleep(0.05)  # for the packet
        assert ask(upstream, method, body=b"x").status == 200
        assert len(server.requests) == 2


def test_a_connection_that_was_idle_for_long_is_not_trusted(monkeypatch):
    with peer(always()) as server:
        upstream = upstream_to(server.port)
        ask(upstream)
        monkeypatch.setattr("runnerwsgi.upstream.IDLE_SECONDS", 0.0)
        ask(upstream, "POST")
    assert server.connections == 2


def dies_at_the_second(talk):
    each(OK)(talk)
    talk.request()


@pytest.mark.parametrize(
    ("method", "repeatable", "again"),
    [("GET", None, True), ("HEAD", None, True), ("POST", None, False), ("POST", True, True)],
)
def test_what_was_sent_whole_is_sent_again_only_where_that_is_safe(method, repeatable, again):
    answer = OK.removesuffix(b"ok") if method == "HEAD" else OK
    with peer(dies_at_the_second, always(answer)) as server:
        upstream = upstream_to(server.port)
        ask(upstream)
        if again:
            assert ask(upstream, method, repeatable=repeatable).status == 200
        else:
            with pytest.raises(OutcomeUnknown, match="after the request was sent"):
                ask(upstream, method, body=b"pay", repeatable=repeatable)
    assert len(server.requests) == 2 + again


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_on_a_new_connection_nothing_is_sent_twice(method):
    with peer(lambda talk: talk.request()) as server, pytest.raises(OutcomeUnknown):
        ask(upstream_to(server.port), method, repeatable=True)
    assert len(server.requests) == 1


def takes_half_of_the_second(talk):
    each(OK)(talk)
    talk.head()
    talk.sock.recv(1000)
    talk.reset()


def test_what_was_never_taken_whole_is_sent_again_whatever_it_is():
    with peer(takes_half_of_the_second, always()) as server:
        upstream = upstream_to(server.port)
        ask(upstream)
        assert ask(upstream, "POST", body=LARGE).body == b"ok"
    assert len(server.requests[1]) > len(LARGE)


def test_what_a_new_connection_did_not_take_whole_was_not_executed():
    with (
        peer(lambda talk: (talk.head(), talk.reset())) as server,
        pytest.raises(BackendUnreachable) as caught,
    ):
        ask(upstream_to(server.port), "POST", body=LARGE)
    assert caught.value.reason == "lost"


def test_an_answer_before_the_end_of_the_body_is_heard():
    too_large = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nno!"

    def refuse(talk):
        talk.head()
        talk.send(too_large)
        time.sleep(0.1)

    with peer(refuse, always()) as server:
        upstream = upstream_to(server.port)
        answer = ask(upstream, "POST", body=LARGE)
        assert (answer.status, answer.body) == (413, b"no!")
        assert ask(upstream).status == 200
    assert server.connections == 2


# An answer whose end is in doubt.

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", id="before its length"),
        pytest.param(CHUNKED, id="before the first chunk"),
        pytest.param(CHUNKED + b"2", id="within the size of a chunk"),
        pytest.param(CHUNKED + b"2\r\no", id="within a chunk"),
        pytest.param(CHUNKED + b"2\r\nok\r", id="within the end of a chunk"),
        pytest.param(CHUNKED + b"2\r\nok\r\n", id="before the last chunk"),
        pytest.param(CHUNKED + b"2\r\nok\r\n0\r\n", id="before the end of the last chunk"),
    ],
)
def test_an_answer_that_breaks_off_has_an_unknown_outcome_and_is_not_asked_for_again(answer):
    with peer(each(answer), always()) as server:
        upstream = upstream_to(server.port)
        with pytest.raises(OutcomeUnknown, match="the answer broke off"):
            ask(upstream)
        assert ask(upstream).body == b"ok"  # on a connection of its own
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok", id="negative length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", id="signed length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok", id="hexadecimal length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", id="list of lengths"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 1\r\n\r\nok", id="two lengths"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", id="empty length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n 0\r\n\r\nok", id="folded length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
            id="length and chunks",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="coded"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            id="folded coding",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", id="identity as a coding"
        ),
        pytest.param(
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            id="chunks in HTTP/1.0",
        ),
        pytest.param(CHUNKED + b"-2\r\nok\r\n0\r\n\r\n", id="negative chunk"),
        pytest.param(CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n", id="chunk with a prefix"),
        pytest.param(CHUNKED + b"\r\nok\r\n0\r\n\r\n", id="chunk without a size"),
        pytest.param(CHUNKED + b"100000000000\r\nok", id="chunk of a thousand gigabytes"),
        pytest.param(CHUNKED + b"1\r\nok\r\n0\r\n\r\n", id="chunk that is longer than it says"),
        pytest.param(CHUNKED + b"0\r\n" + b"A: b\r\n" * 1000, id="endless trailers"),
        pytest.param(CHUNKED + b"2;" + b"a" * 9000 + b"\r\nok\r\n0\r\n\r\n", id="long extension"),
        pytest.param(CHUNKED + b"3e9\r\n" + b"x" * 1001, id="too long in chunks"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nX-A: a\rContent-Length: 2\r\n\r\nok", id="header within a header"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 2\r\n\r\nok", id="no header at all"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", id="blank before a colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\n folded: 2\r\n\r\nok", id="folded first line"),
        pytest.param(b"HTTP/1.1 200 OK\r\n: 2\r\n\r\nok", id="header without a name"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", id="gzip"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", id="too long"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001, id="too long until it closes"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 65 + b"\r\n", id="65 fields"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 105 + b"\r\n", id="105 fields"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 33_000 + b"\r\n\r\n", id="33 kB of fields"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n", id="70 kB of fields"),
        pytest.param(b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n", id="status 999"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK, id="early hints"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 ok\r\n\r\n", id="no status"),
        pytest.param(b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", id="HTTP/2"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="SSH"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x16", id="TLS"),
        pytest.param(b"x" * 70_000, id="70 kB without a line's end"),
    ],
)
def test_an_answer_that_could_be_read_in_two_ways_is_refused(answer):
    with peer(each(answer), always()) as server:
        upstream = upstream_to(server.port)
        with pytest.raises(BadRunnerResponse) as caught:
            ask(upstream)
        assert "\n" not in str(caught.value)
        assert ask(upstream).body == b"ok"  # on a connection of its own
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(OK, id="a length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length:2 \t\r\n\r\nok", id="blanks around it"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", id="lines without a return"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, id="after an interim answer"),
        pytest.param(CHUNKED + b"2\r\nok\r\n0\r\n\r\n", id="one chunk"),
        pytest.param(CHUNKED + b"1;a=b\r\no\r\n01 \r\nk\r\n000\r\nX: y\r\n\r\n", id="odd chunks"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
            id="identity",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Type: multipart/mixed\r\nContent-Length: 2\r\n\r\nok",
            id="a type that email has opinions on",
        ),
    ],
)
def test_an_answer_with_a_clear_end_is_taken_and_the_connection_kept(answer):
    with peer(always(answer)) as server:
        upstream = upstream_to(server.port)
        assert [ask(upstream).body for _ in range(3)] == [b"ok"] * 3
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nok", id="until it closes"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", id="HTTP/1.0"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", id="close"
        ),
    ],
)
def test_a_connection_that_the_peer_ends_is_not_kept(answer):
    with peer(each(answer)) as server:
        upstream = upstream_to(server.port)
        assert [ask(upstream).body for _ in range(2)] == [b"ok"] * 2
    assert server.connections == 2


@pytest.mark.parametrize("late", [False, True], ids=["with the answer", "after it"])
def test_bytes_beyond_an_answer_are_nobodys_next_answer(late):
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    answered, sent = threading.Event(), threading.Event()

    def script(talk):
        talk.request()
        talk.send(OK if late else OK + evil)
        if late:
            answered.wait(10)
            talk.send(evil)
        sent.set()
        talk.request()

    with peer(script, always()) as server:
        upstream = upstream_to(server.port)
        assert ask(upstream).body == b"ok"
        answered.set()
        assert sent.wait(10)
        assert ask(upstream).body == b"ok"
    assert server.connections == 2


def test_a_redirect_is_an_answer_like_any_other():
    moved = b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
    with peer(always(moved)) as server:
        answer = ask(upstream_to(server.port), "POST", body=b"x")
    assert (answer.status, answer.headers["location"]) == (307, "http://127.0.0.1:9/")
    assert len(server.requests) == 1


def test_the_environments_proxies_are_not_asked(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port()}")
    with peer(always()) as server:
        assert ask(upstream_to(server.port)).body == b"ok"


# One deadline.


def drip(head, pause=0.05):
    def script(talk):
        talk.request()
        talk.send(head)
        while True:
            talk.send(b"1")
            time.sleep(pause)

    return script


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"", id="in the status line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Slow: ", id="in a header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", id="in the body"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", id="in a body without an end"),
        pytest.param(CHUNKED + b"90\r\n", id="in a chunk"),
        pytest.param(CHUNKED + b"0\r\nX-Slow: ", id="in a trailer"),
    ],
)
def test_a_drip_ends_at_the_deadline(head):
    started = time.monotonic()
    with peer(drip(head)) as server, pytest.raises(DeadlineExceeded, match=r"\(0\.3 s\)"):
        ask(upstream_to(server.port), timeout=0.3)
    assert 0.25 < time.monotonic() - started < 2


def test_interim_answers_do_not_go_on_for_ever():
    def script(talk):
        talk.request()
        while True:
            talk.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    with peer(script) as server, pytest.raises(DeadlineExceeded):
        ask(upstream_to(server.port), timeout=0.3)


@pytest.mark.parametrize("phase", ["connect", "send", "read"])
def test_silence_ends_at_the_deadline_and_the_error_says_where(phase):
    script = {
        "connect": always(),
        "send": lambda talk: time.sleep(1.5),
        "read": each(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b""),
    }[phase]
    with peer(script) as server:
        port = server.port
        if phase == "connect":
            full = full_backlog()
            port = full[0].getsockname()[1]
        with pytest.raises(DeadlineExceeded, match=f"in {phase}, upstream=http://127"):
            ask(upstream_to(port), "POST", body=LARGE if phase == "send" else b"", timeout=0.3)
        if phase == "connect":
            for sock in full:
                sock.close()


def full_backlog():
    """A listener that takes no more connections, and those that fill it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    filling = []
    for _ in range(4):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
        filling.append(sock)
    return [listener, *filling]


def test_a_second_try_has_only_the_time_that_is_left():
    def slow_death(talk):
        each(OK)(talk)
        talk.request()
        time.sleep(0.4)

    with peer(slow_death, silence) as server:
        upstream = upstream_to(server.port)
        ask(upstream)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            ask(upstream, timeout=0.8)
        assert time.monotonic() - started < 2


# Where nobody is.


def test_who_is_not_there_is_told_apart(tmp_path):
    with pytest.raises(BackendUnreachable) as caught:
        ask(upstream_to(unused_port()))
    assert (caught.value.reason, "refused" in str(caught.value)) == ("refused", True)
    with pytest.raises(BackendUnreachable) as caught:
        ask(upstream_at(Origin("http", "no-such-host.invalid", 80)), timeout=20)
    assert caught.value.reason == "name"
    for path in (tmp_path / "none.sock", tmp_path / ("a" * 200)):
        with pytest.raises(BackendUnreachable) as caught:
            ask(upstream_at(path))
        assert caught.value.reason == "refused"


def test_a_unix_socket_is_a_place_like_any_other(tmp_path):
    path = tmp_path / "gateway.sock"
    with peer(always(), path=path) as server:
        upstream = upstream_at(path)
        assert [ask(upstream).body for _ in range(3)] == [b"ok"] * 3
    assert b"\r\nHost: localhost\r\n" in server.requests[0]
    assert server.connections == 1


def test_over_tls_connections_are_kept(tls, trust):
    with peer(always(), tls=tls) as server:
        upstream = upstream_to(server.port, "https", route=Route(tls=trust))
        assert [ask(upstream, "POST", body=b"x").body for _ in range(3)] == [b"ok"] * 3
    assert server.connections < 3


def test_bytes_beyond_an_answer_are_seen_under_tls_too(tls, trust):
    # One record: what follows the answer is decrypted with it, and the socket has nothing to read.
    surplus = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil" + b" " * 15_000
    with peer(each(OK + surplus, OK), always(), tls=tls) as server:
        upstream = upstream_to(server.port, "https", route=Route(tls=trust))
        assert [ask(upstream).body for _ in range(2)] == [b"ok"] * 2
    assert server.connections == 2


def test_who_cannot_be_trusted_gets_nothing(tls):
    with (
        peer(always(), tls=tls) as server,
        pytest.raises(BackendUnreachable, match="certificate") as caught,
    ):
        ask(upstream_to(server.port, "https"), headers=[("X-Secret", "s")])
    assert (caught.value.reason, server.requests) == ("tls", [])


def test_who_speaks_no_tls_is_not_spoken_to():
    def plain(talk):
        talk.sock.recv(1)
        talk.send(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    with peer(plain) as server, pytest.raises(BackendUnreachable) as caught:
        ask(upstream_to(server.port, "https"))
    assert caught.value.reason == "tls"


# A greeting before anything else.

READY = b"HTTP/1.1 200 OK\r\nX-Runner: runnerwsgi/1\r\nContent-Length: 2\r\n\r\nok"


def test_each_new_connection_is_greeted_once():
    with peer(always(READY)) as server:
        upstream = upstream_to(server.port, greeting="/ready")
        for _ in range(3):
            ask(upstream, "POST", body=b"x")
    methods = [request.split(b" ")[:2] for request in server.requests]
    assert methods == [[b"GET", b"/ready"], *[[b"POST", b"/x"]] * 3]


@pytest.mark.parametrize(
    ("script", "error", "reason"),
    [
        pytest.param(
            each(b"HTTP/1.1 503 No\r\nX-Runner: runnerwsgi/1\r\nContent-Length: 0\r\n\r\n"),
            BackendStarting,
            None,
            id="not ready",
        ),
        pytest.param(lambda talk: None, BackendUnreachable, "lost", id="nobody behind the door"),
        pytest.param(lambda talk: talk.reset(), BackendUnreachable, "lost", id="reset"),
        pytest.param(each(READY[:-1]), BackendUnreachable, "lost", id="cut short"),
        pytest.param(
            each(READY.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")),
            BadRunnerResponse,
            None,
            id="keeps no connection",
        ),
        pytest.param(each(b"SSH-2.0-OpenSSH_9.2\r\n"), BadRunnerResponse, None, id="SSH"),
        pytest.param(each(READY + OK), BadRunnerResponse, None, id="more than an answer"),
        pytest.param(silence, DeadlineExceeded, None, id="silence"),
    ],
)
def test_a_request_never_meets_a_door_behind_which_nobody_is(script, error, reason):
    with peer(script) as server:
        upstream = upstream_to(server.port, greeting="/ready")
        with pytest.raises(error) as caught:
            ask(upstream, "POST", body=b"pay", timeout=0.5)
    assert getattr(caught.value, "reason", None) == reason
    assert not any(b"pay" in request for request in server.requests)


def test_a_runner_without_readiness_is_asked_all_the_same():
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with peer(each(missing, OK)) as server:
        assert ask(upstream_to(server.port, greeting="/ready"), "POST").body == b"ok"


# Processes.

FORKING = textwrap.dedent(
    """
    import os, sys
    from runnerwsgi.origins import Origin
    from runnerwsgi.upstream import Upstream

    upstream = Upstream(Origin("http", "127.0.0.1", int(sys.argv[1])))

    def ask(name):
        target = f"/{name}"
        answer = upstream.exchange("GET", target, timeout=5, max_bytes=100)
        assert answer.body.decode() == target, answer

    ask("before")
    children = []
    for number in range(4):
        if not (pid := os.fork()):
            ask(f"child-{number}")
            ask(f"child-{number}-again")
            os._exit(0)
        children.append(pid)
        ask(f"parent-{number}")
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
    ask("after")
    """
)


def test_a_forked_child_has_connections_of_its_own():
    def echo(talk):
        while request := talk.request():
            name = request.split(b" ")[1]
            talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name))

    with peer(echo) as server:
        command = [sys.executable, "-c", FORKING, str(server.port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert server.connections == 5


@pytest.mark.parametrize(
    ("value", "sent"),
    [("acme", "acme"), ("größe", "gr%C3%B6%C3%9Fe"), ("a\r\nX: y", "a%0D%0AX%3A%20y")],
)
def test_a_header_carries_any_text(value, sent):
    assert sendable(value) == sent


def test_files_that_were_opened_are_closed():
    before = len(list(Path("/proc/self/fd").iterdir())) if os.path.isdir("/proc/self/fd") else 0
    for script in (each(OK), each(b"junk\r\n"), lambda talk: talk.reset()):
        with peer(script) as server:
            upstream = upstream_to(server.port)
            for _ in range(5):
                try:
                    ask(upstream)
                except (OutcomeUnknown, BadRunnerResponse, BackendUnreachable):
                    continue
            upstream.close()
    after = len(list(Path("/proc/self/fd").iterdir())) if os.path.isdir("/proc/self/fd") else 0
    assert after <= before
