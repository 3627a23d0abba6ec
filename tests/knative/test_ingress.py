"""What the two ingresses do with a request, seen with plain HTTP: what a backend must stand."""

import http.client
import socket
from contextlib import nullcontext

import pytest
from authority import Authority
from envoy import PROFILES, SERVICE, envoy
from peers import OK, always, peer, unused_port
from servers import runner

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"


@pytest.fixture(scope="module", params=PROFILES)
def profile(request):
    return request.param


@pytest.fixture(scope="module")
def ingress(profile):
    with envoy(profile) as started:
        yield started


def breaking(answer=b""):
    """A script that takes one whole request, says *answer*, and resets the connection."""

    def script(talk):
        if talk.request():
            talk.send(answer)
            talk.reset()

    return script


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_what_breaks_before_the_headers_is_repeated_by_contour_alone(ingress, profile, method):
    with peer(breaking()) as server:
        ingress.point(server.url)
        status, head, body = ingress.send(method, "/v1/execute", b"once", Idempotency_Key="k1")
    assert len(server.requests) == {"kourier": 1, "contour": 3}[profile]
    assert (status, head["server"]) == (503, "envoy")
    assert b"reset reason: connection termination" in body
    assert all(sent.endswith(b"once") for sent in server.requests)


def test_the_caller_is_not_told_that_it_ran_twice(ingress, profile):
    with peer(breaking(), always(OK)) as server:
        ingress.point(server.url)
        status = ingress.send("POST", "/v1/execute", b"once")[0]
    expected = {"kourier": (503, 1), "contour": (200, 2)}
    assert (status, len(server.requests)) == expected[profile]


def test_no_endpoint_may_be_said_of_a_call_that_was_sent(ingress, profile):
    def script(talk):
        talk.request()
        ingress.point()
        talk.reset()

    with peer(script) as server:
        ingress.point(server.url)
        status, _, body = ingress.send("POST", "/v1/execute", b"once")
    assert (status, len(server.requests)) == (503, 1)
    # Contour's second try found nobody, and of the first nothing is told.
    assert (body == b"no healthy upstream") == (profile == "contour")


def test_what_breaks_after_the_headers_is_repeated_by_none(ingress):
    with peer(breaking(CHUNKED)) as server:
        ingress.point(server.url)
        with pytest.raises((OSError, http.client.HTTPException)):
            ingress.send("POST", "/v1/execute", b"once")
    assert len(server.requests) == 1


def test_a_host_that_it_does_not_know_is_answered_with_nothing(ingress):
    status, head, body = ingress.send("POST", Host="other.extensions.svc.cluster.local")
    assert (status, head["server"], body) == (404, "envoy", b"")


@pytest.mark.parametrize(
    "host",
    [SERVICE, f"{SERVICE}:80", "runner.extensions.svc", "runner.extensions:8080"],
)
def test_a_service_is_known_by_its_shorter_names(ingress, host):
    with peer(always()) as server:
        ingress.point(server.url)
        assert ingress.send(Host=host)[0] == 200
    assert f"host: {host}".encode() in server.requests[0]


def test_no_endpoint_and_nobody_there_are_two_texts(ingress):
    ingress.point()
    status, _, body = ingress.send("POST", body=b"x")
    assert (status, body) == (503, b"no healthy upstream")
    ingress.point(f"http://127.0.0.1:{unused_port()}")
    status, _, body = ingress.send("POST", body=b"x")
    assert status == 503
    assert b"reset reason: remote connection failure" in body


def test_what_the_client_says_of_the_revision_is_overwritten(ingress):
    with peer(always()) as server:
        ingress.point(server.url)
        ingress.send(Knative_Serving_Revision="mine")
    sent = server.requests[0].lower()
    assert b"knative-serving-revision: runner-00001\r\n" in sent
    assert b"mine" not in sent


def test_a_path_arrives_as_it_was_sent(ingress):
    with peer(always()) as server:
        ingress.point(server.url)
        ingress.send(path="/ext-ui/a//b/../%2e%2e/%2F?x=%00")
    assert server.requests[0].startswith(b"GET /ext-ui/a//b/../%2e%2e/%2F?x=%00 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("name", "is_taken"), [("runner.example.com", True), ("other.example.com", False)]
)
def test_with_tls_it_is_told_who_is_meant_before_the_host(tmp_path, profile, name, is_taken):
    authority = Authority(tmp_path)
    (tmp_path / "pair.pem").write_bytes(b"".join(authority.issue("runner.example.com")))
    with envoy(profile, host="runner.example.com", certificate=tmp_path / "pair.pem") as ingress:
        host, port = ingress.address.split(":")
        with socket.create_connection((host, port), timeout=5) as plain:
            told = nullcontext() if is_taken else pytest.raises(ConnectionResetError)
            with told, authority.client.wrap_socket(plain, server_hostname=name) as sock:
                assert sock.version().startswith("TLS")


def test_a_runner_answers_through_it(ingress, tmp_path):
    with runner(tmp_path, wait=False) as server:
        ingress.point(server.url)
        status, head, _ = ingress.send(path="/health/liveness")
    assert (status, head["server"]) == (200, "envoy")
    assert head["x-runner"].startswith("runnerwsgi/")
    assert "x-envoy-upstream-service-time" in head
