import gzip
import socket
import threading
import time

import pytest
from authority import Authority

from capabilities.servers import Dialler, Names, reply, serving
from runnerwsgi.capabilities.egress import Egress
from runnerwsgi.errors import CapabilityError, ConfigurationError

PUBLIC = "93.184.216.34"
ALLOW = ("http://a.test", "https://a.test", "http://a.test:8080", "http://*.b.test")


def request(url="http://a.test/", method="GET", headers=(), body=None):
    fields = [{"name": name, "value": value} for name, value in headers]
    return {"method": method, "url": url, "headers": fields, "body": body}


@pytest.fixture
def call(make_call):
    return make_call(egress=ALLOW, timeout=3.0)


def names(*addresses):
    return Names(a_test=addresses or (PUBLIC,), c_b_test=addresses or (PUBLIC,))


def egress_to(port, *addresses, **options):
    dialler = Dialler(port)
    return Egress(ALLOW, resolve=names(*addresses), connect=dialler, **options), dialler


def refusal(egress, call, *args, **kwargs):
    with pytest.raises(CapabilityError) as refused:
        egress.fetch(call, request(*args, **kwargs))
    return refused.value.case


def noting(seen, answer=None):
    """An answer function that keeps the request's bytes."""

    def note(connection, data):
        seen.append(data)
        (answer or reply())(connection, data)

    return note


def test_an_answer_comes_back_whole(call):
    with serving(reply("201 Created", b"\x00\xff", ["X-A: 1", "Set-Cookie: a=b"])) as port:
        egress, dialler = egress_to(port)
        answer = egress.fetch(call, request("http://a.test:8080/x?y=1"))
    assert answer == {
        "status": 201,
        "headers": [
            {"name": "Content-Length", "value": "2"},
            {"name": "X-A", "value": "1"},
            {"name": "Set-Cookie", "value": "a=b"},
        ],
        "body": b"\x00\xff",
    }
    assert dialler.dialled == [(PUBLIC, 8080)]


def test_a_request_goes_out_as_it_was_meant(call):
    seen = []
    with serving(noting(seen)) as port:
        egress, _ = egress_to(port)
        headers = [("Content-Type", "text/plain"), ("X-Key", "k"), ("X-Key", "l")]
        egress.fetch(call, request("http://A.test:8080/p%20q?r", "post", headers, b"body"))
    assert seen[0].split(b"\r\n") == [
        b"POST /p%20q?r HTTP/1.1",
        b"Host: a.test:8080",
        b"Accept-Encoding: identity",
        b"Content-Type: text/plain",
        b"X-Key: k",
        b"X-Key: l",
        seen[0].split(b"\r\n")[6],
        b"Content-Length: 4",
        b"Connection: close",
        b"",
        b"body",
    ]
    assert seen[0].split(b"\r\n")[6].startswith(b"User-Agent: runnerwsgi/")


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [("GET", None, None), ("POST", None, b"0"), ("POST", b"", b"0"), ("DELETE", b"x", b"1")],
)
def test_the_length_is_ours(call, method, body, length):
    seen = []
    with serving(noting(seen)) as port:
        egress_to(port)[0].fetch(call, request(method=method, body=body))
    lines = [line for line in seen[0].split(b"\r\n") if line.startswith(b"Content-Length")]
    assert lines == ([b"Content-Length: " + length] if length else [])


def test_an_answer_to_head_has_no_body(call):
    with serving(lambda c, _: c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")) as port:
        assert egress_to(port)[0].fetch(call, request(method="HEAD"))["body"] == b""


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_the_guests_to_follow(call, status):
    answer = reply(f"{status} Elsewhere", b"", ["Location: http://127.0.0.1/"])
    with serving(answer) as port:
        egress, dialler = egress_to(port)
        found = egress.fetch(call, request())
    assert found["status"] == status
    assert {"name": "Location", "value": "http://127.0.0.1/"} in found["headers"]
    assert len(dialler.dialled) == 1


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "TE"),
        *("Expect", "Accept-Encoding", "Proxy-Authorization", "X-Forwarded-For", "X-Real-IP"),
        *("X_Forwarded_For", "Forwarded", "X-Alga-Tenant", "x_alga_tenant", "X-Runner-Token"),
        *("K-Revision", "Knative-Serving", "X-Envoy-Original-Path", "Metadata-Flavor", "Via"),
        *("Sec-Fetch-Site", "X-aws-ec2-metadata-token", "X-HTTP-Method-Override", "Keep-Alive"),
    ],
)
def test_headers_that_are_not_a_guests_to_set_are_dropped(call, name):
    seen = []
    with serving(noting(seen)) as port:
        headers = [(name, "canary"), ("X-Kept", "kept")]
        egress_to(port)[0].fetch(call, request(headers=headers))
    assert b"canary" not in seen[0]
    assert b"X-Kept: kept" in seen[0]
    assert seen[0].lower().count(b"host:") == 1


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([("X-A", "a\r\nX-B: b")], id="line break in a value"),
        pytest.param([("X-A", "a\x00")], id="null in a value"),
        pytest.param([("X-A", "日本")], id="not latin-1"),
        pytest.param([("X A", "a")], id="blank in a name"),
        pytest.param([("X-A:", "a")], id="colon in a name"),
        pytest.param([("", "a")], id="no name"),
        pytest.param([("X-A", "a")] * 101, id="too many"),
        pytest.param([("X-A", "a" * 33_000)], id="too long"),
    ],
)
def test_malformed_headers_are_refused(call, headers):
    egress, dialler = egress_to(None)
    assert refusal(egress, call, headers=headers) == "not-allowed"
    assert dialler.dialled == []


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "GET /x HTTP/1.1\r\nX:", "", "G\x00T"])
def test_other_methods_are_refused(call, method):
    egress, dialler = egress_to(None)
    assert refusal(egress, call, method=method) == "not-allowed"
    assert dialler.dialled == []


@pytest.mark.parametrize(
    ("operator", "install", "url", "case"),
    [
        pytest.param(ALLOW, ALLOW, "http://a.test/", "transport", id="in both lists"),
        pytest.param(ALLOW, ALLOW, "http://c.b.test/", "transport", id="a subdomain of a star"),
        pytest.param(ALLOW, ALLOW, "http://b.test/", "not-allowed", id="the star's own name"),
        pytest.param(ALLOW, (), "http://a.test/", "not-allowed", id="not granted to the install"),
        pytest.param((), ALLOW, "http://a.test/", "not-allowed", id="no list of the operator"),
        pytest.param(ALLOW, ALLOW, "http://a.test:81/", "not-allowed", id="another port"),
        pytest.param(ALLOW, ALLOW, "https://c.b.test/", "not-allowed", id="another scheme"),
    ],
)
def test_both_lists_must_allow(make_call, operator, install, url, case):
    dialler = Dialler()
    egress = Egress(operator, resolve=names(), connect=dialler)
    assert refusal(egress, make_call(egress=install), url) == case
    assert len(dialler.dialled) == (case == "transport")


def test_a_star_alone_is_a_configuration_error():
    with pytest.raises(ConfigurationError):
        Egress(["*"])


INNER = [
    *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "224.0.0.1", "198.18.0.1", "255.255.255.255", "168.63.129.16", "::1", "::"),
    *("::ffff:127.0.0.1", "::ffff:93.184.216.34", "64:ff9b::7f00:1", "2002:7f00:1::", "fe80::1"),
    *("fe80::1%eth0", "fd00:ec2::254", "2001:0:53aa::1", "ff02::1", "127.1", "not an address", ""),
]


@pytest.mark.parametrize("address", INNER)
@pytest.mark.parametrize("place", ["alone", "first", "last"])
def test_a_name_with_an_inner_address_is_refused_and_never_dialled(call, address, place):
    addresses = {"alone": [address], "first": [address, PUBLIC], "last": [PUBLIC, address]}[place]
    egress, dialler = egress_to(None, *addresses)
    assert refusal(egress, call) == "not-allowed"
    assert dialler.dialled == []


def test_a_name_is_resolved_once_and_the_checked_address_is_dialled(call):
    dialler = Dialler()
    resolver = names()
    answers = iter([(PUBLIC,), ("127.0.0.1",)])
    rebinding = Egress(
        ALLOW, resolve=lambda host, port: resolver(host, port) and next(answers), connect=dialler
    )
    assert refusal(rebinding, call) == "transport"
    assert resolver.asked == ["a.test"]
    assert dialler.dialled == [(PUBLIC, 80)]
    assert refusal(rebinding, call) == "not-allowed"
    assert len(dialler.dialled) == 1


def test_the_next_address_is_tried_where_one_does_not_answer(call):
    with serving(reply()) as port:
        dialler = Dialler(port)

        def connect(address, number, timeout):
            sock = dialler(address, number, timeout)
            if address == PUBLIC:
                sock.close()
                raise ConnectionRefusedError
            return sock

        egress = Egress(ALLOW, resolve=names(PUBLIC, "2606:2800:220::1"), connect=connect)
        assert egress.fetch(call, request())["status"] == 200
    assert dialler.dialled == [(PUBLIC, 80), ("2606:2800:220::1", 80)]


def test_a_loopback_address_that_the_operator_wrote_down_is_reached(make_call):
    with serving(reply()) as port:
        entry = f"http://127.0.0.1:{port}"
        egress = Egress([entry])
        assert egress.fetch(make_call(egress=(entry,)), request(entry + "/"))["body"] == b"hello"
        assert refusal(egress, make_call(egress=()), entry + "/") == "not-allowed"
        assert refusal(Egress(), make_call(egress=(entry,)), entry + "/") == "not-allowed"


def test_a_name_of_loopback_is_not_the_address(make_call):
    entries = ("http://localhost:9", "http://127.0.0.1:9")
    assert refusal(Egress(entries), make_call(egress=entries), "http://localhost:9/") == (
        "not-allowed"
    )


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1", id="half a status line"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 abc OK\r\n\r\n", id="status that is no number"),
        pytest.param(b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", id="status 999"),
        pytest.param(b"HTTP/1.1 101 Switching\r\n\r\n", id="status 101"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", id="cut in the body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", id="no body"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", id="cut in a chunk"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="bad chunk size"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", id="too long"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001, id="too long, unannounced"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001
            + b"\r\n0\r\n\r\n",
            id="too long, in chunks",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 65 + b"\r\n", id="65 fields"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 33_000 + b"\r\n\r\n", id="long fields"),
    ],
)  # fmt: skip
def test_a_broken_answer_is_a_transport_error(call, answer):
    with serving(lambda connection, _: connection.sendall(answer)) as port:
        egress, _ = egress_to(port, max_bytes=1000)
        assert refusal(egress, call) == "transport"


def test_what_a_server_says_stays_in_its_line_of_the_log(call, caplog):
    caplog.set_level("INFO")
    said = b"\x1b[2Joh\x0bERROR all is lost\n"
    with serving(lambda connection, _: connection.sendall(said)) as port:
        egress, _ = egress_to(port)
        assert refusal(egress, call) == "transport"
    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert "all is lost" in record.getMessage()


def test_an_answer_just_at_the_cap_passes(call):
    for answer in (
        reply(body=b"x" * 1000),
        lambda connection, _: connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000),
    ):
        with serving(answer) as port:
            egress, _ = egress_to(port, max_bytes=1000)
            assert len(egress.fetch(call, request())["body"]) == 1000


def test_chunks_are_put_together(call):
    data = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n"
    )
    with serving(lambda connection, _: connection.sendall(data)) as port:
        answer = egress_to(port)[0].fetch(call, request())
    assert answer["body"] == b"abc"
    assert answer["headers"] == []


def test_an_encoded_answer_is_not_inflated(call):
    packed = gzip.compress(b"x" * 1_000_000)
    with serving(reply(body=packed, headers=["Content-Encoding: gzip"])) as port:
        answer = egress_to(port, max_bytes=10_000)[0].fetch(call, request())
    assert answer["body"] == packed


def silence(connection, request):
    connection.recv(1)


def drip(data):
    def answer(connection, request):
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    return answer


SLOW = {
    "no answer at all": silence,
    "a dripping status line": drip(b"HTTP/1.1 200 " + b"O" * 1000),
    "dripping headers": drip(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000),
    "a dripping body": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000),
    "a dripping chunk size": drip(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 1000
    ),
}


@pytest.mark.parametrize("answer", SLOW.values(), ids=SLOW)
def test_a_slow_server_ends_with_the_time_of_the_call(make_call, answer):
    with serving(answer) as port:
        egress, _ = egress_to(port)
        started = time.monotonic()
        assert refusal(egress, make_call(egress=ALLOW, timeout=0.3)) == "transport"
        assert 0.2 < time.monotonic() - started < 2


def test_a_slow_resolver_ends_with_the_time_of_the_call(make_call):
    done = threading.Event()
    egress = Egress(ALLOW, resolve=lambda host, port: done.wait(5) and [PUBLIC])
    started = time.monotonic()
    assert refusal(egress, make_call(egress=ALLOW, timeout=0.2)) == "transport"
    assert time.monotonic() - started < 2
    done.set()


def test_many_slow_look_ups_hold_few_threads(make_call):
    done = threading.Event()
    egress = Egress(ALLOW, resolve=lambda host, port: done.wait(5) and [PUBLIC])
    call = make_call(egress=ALLOW, timeout=0.05)
    for _ in range(12):
        assert refusal(egress, call) == "transport"
    looking = [one for one in threading.enumerate() if one.name == "runnerwsgi-resolve"]
    assert 0 < len(looking) <= 8
    done.set()
    for thread in looking:
        thread.join()
    with serving(reply()) as port:
        assert egress_to(port)[0].fetch(make_call(egress=ALLOW), request())["status"] == 200


def test_a_connector_gets_only_the_time_that_is_left(make_call):
    given = []

    def connect(address, port, timeout):
        given.append(timeout)
        raise TimeoutError("timed out")

    egress = Egress(ALLOW, resolve=names(PUBLIC, "9.9.9.9"), connect=connect)
    assert refusal(egress, make_call(egress=ALLOW, timeout=1.0)) == "transport"
    assert len(given) == 2
    assert given[0] <= 0.5
    assert given[1] <= 1.0


@pytest.mark.parametrize("timeout", [0.0, -1.0])
def test_without_time_nothing_is_dialled(make_call, timeout):
    egress, dialler = egress_to(None)
    assert refusal(egress, make_call(egress=ALLOW, timeout=timeout)) == "transport"
    assert dialler.dialled == []


def test_a_name_that_does_not_exist_is_a_transport_error(call):
    egress = Egress(ALLOW, resolve=Names(), connect=Dialler())
    assert refusal(egress, call) == "transport"


def test_the_system_resolver_and_connector_work_together(make_call):
    with serving(reply()) as port:
        entry = f"http://localhost:{port}"
        case = refusal(Egress([entry]), make_call(egress=(entry,)), entry + "/")
    assert case == "not-allowed"


def test_a_failure_is_logged_with_its_request_and_without_the_query(call, caplog):
    caplog.set_level("INFO")
    egress, _ = egress_to(None)
    assert refusal(egress, call, "http://a.test/?key=canary-77") == "transport"
    assert "request_id=r1" in caplog.text
    assert "canary-77" not in caplog.text


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """A certificate authority, and contexts of servers that it vouches for."""
    return Authority(tmp_path_factory.mktemp("tls"))


def serve_tls(context, asked):
    context.sni_callback = lambda sock, name, _: asked.append(name)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listener.accept()
        try:
            with context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(65536)
                secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        except OSError:
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return listener, thread


@pytest.mark.parametrize(
    ("hosts", "trusted", "outcome"),
    [
        pytest.param(("a.test",), True, "ok", id="a certificate of the name"),
        pytest.param(("b.test",), True, "transport", id="a certificate of another name"),
        pytest.param((PUBLIC,), True, "transport", id="a certificate of the address"),
        pytest.param(("a.test",), False, "transport", id="a certificate nobody vouches for"),
    ],
)
def test_the_server_must_prove_to_be_the_name_in_the_url(call, authority, hosts, trusted, outcome):
    asked = []
    listener, thread = serve_tls(authority.server(*hosts), asked)
    tls = authority.client if trusted else None
    egress, dialler = egress_to(listener.getsockname()[1], tls=tls)
    if outcome == "ok":
        assert egress.fetch(call, request("https://a.test/"))["body"] == b"hello"
    else:
        assert refusal(egress, call, "https://a.test/") == outcome
    thread.join(5)
    listener.close()
    assert dialler.dialled == [(PUBLIC, 443)]
    assert asked == ["a.test"]


def test_a_handshake_that_hangs_ends_with_the_time_of_the_call(make_call, authority):
    listener = socket.create_server(("127.0.0.1", 0))
    egress, _ = egress_to(listener.getsockname()[1], tls=authority.client)
    started = time.monotonic()
    case = refusal(egress, make_call(egress=ALLOW, timeout=0.3), "https://a.test/")
    assert case == "transport"
    assert time.monotonic() - started < 2
    listener.close()
