"""The WSGI ends of things: bodies in, answers out."""

import io
import json

import pytest
from support import CountingInput, make_environ, send

from runnerwsgi.errors import (
    BadHeader,
    BadRequest,
    BadRunnerResponse,
    BodyTooLarge,
    Forbidden,
    MethodNotAllowed,
    Overloaded,
    UnsupportedMediaType,
    all_errors,
)
from runnerwsgi.wsgi import Response, guest_response, json_response, problem, read_body

MOUNT = "/app/api/ext/acme.hello"


class Trickle(CountingInput):
    """An input that gives three bytes at a time, as a slow client's does."""

    def read(self, size=-1):
        return super().read(min(size, 3))


def test_a_body_is_read_by_its_length_and_no_further():
    environ = make_environ("POST", body=b"hello, more", CONTENT_LENGTH="5")
    assert read_body(environ, 100) == b"hello"
    assert environ["wsgi.input"].consumed == 5


def test_a_body_in_pieces_is_read_whole():
    environ = make_environ("POST", CONTENT_LENGTH="11", **{"wsgi.input": Trickle(b"hello world")})
    assert read_body(environ, 11) == b"hello world"


def test_no_length_is_no_body_and_zero_is_an_empty_one():
    assert read_body(make_environ("POST"), 10) is None
    assert read_body(make_environ("POST", CONTENT_LENGTH=""), 10) is None
    assert read_body(make_environ("POST", CONTENT_LENGTH="0"), 10) == b""


def test_a_terminated_input_is_read_to_its_end():
    environ = make_environ(**{"wsgi.input": Trickle(b"chunked"), "wsgi.input_terminated": True})
    assert read_body({**environ, "HTTP_TRANSFER_ENCODING": "chunked"}, 7) == b"chunked"


@pytest.mark.parametrize(
    ("body", "more", "error", "consumed"),
    [
        pytest.param(b"12", {"CONTENT_LENGTH": "3"}, BadRequest, 2, id="it ends early"),
        pytest.param(b"1234", {"CONTENT_LENGTH": "11"}, BodyTooLarge, 0, id="announced too large"),
        pytest.param(
            b"x" * 50,
            {"CONTENT_LENGTH": None, "wsgi.input_terminated": True},
            BodyTooLarge,
            11,
            id="too large without a length",
        ),
        pytest.param(
            b"3\r\n",
            {"CONTENT_LENGTH": None, "HTTP_TRANSFER_ENCODING": "chunked"},
            BadRequest,
            0,
            id="chunks that nobody decodes",
        ),
        pytest.param(b"1", {"HTTP_TRANSFER_ENCODING": "chunked"}, BadRequest, 0, id="two framings"),
        pytest.param(b"1", {"CONTENT_LENGTH": "0x1"}, BadRequest, 0, id="hexadecimal"),
        pytest.param(b"1", {"CONTENT_LENGTH": "9" * 5000}, BadRequest, 0, id="5000 digits"),
        pytest.param(b"1", {"HTTP_CONTENT_ENCODING": "br"}, UnsupportedMediaType, 0, id="encoded"),
        pytest.param(b"1", {"CONTENT_TYPE": "a/b, c/d"}, BadHeader, 0, id="two types"),
    ],
)
def test_a_body_that_is_refused(body, more, error, consumed):
    environ = make_environ("POST", body=body, **more)
    with pytest.raises(error):
        read_body(environ, 10)
    assert environ["wsgi.input"].consumed == consumed


@pytest.mark.parametrize("status", [200, 201, 205, 299, 404, 500, 599])
def test_an_answer_has_its_length_and_a_type(status):
    answer = send(Response(status, [], b"" if status == 205 else b"body"), make_environ())
    assert answer.status == status
    assert answer.header("content-length") == str(len(answer.body))
    assert answer.header("content-type") == "application/octet-stream"


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_describes_none(status):
    answer = send(Response(status, [("Content-Type", "text/plain")], b"x"), make_environ())
    assert (answer.body, answer.header("content-length"), answer.header("content-type")) == (
        b"",
        None,
        None,
    )


def test_a_head_has_the_headers_and_no_body():
    answer = send(Response(200, [], b"body"), make_environ("HEAD"))
    assert (answer.body, answer.header("content-length")) == (b"", "4")


def test_a_long_body_goes_out_through_the_servers_own_wrapper():
    wrapped = []

    def wrapper(file, size):
        wrapped.append(size)
        return iter(lambda: file.read(size), b"")

    data = bytes(300_000)
    answer = send(Response(200, [], data), make_environ(**{"wsgi.file_wrapper": wrapper}))
    assert answer.body == data
    assert wrapped


@pytest.mark.parametrize("pair", [("a b", "v"), ("a", "v\r\nSet-Cookie: x=1"), ("a", "\u20ac")])
def test_no_header_that_cannot_be_sent_reaches_the_server(pair):
    with pytest.raises(BadRunnerResponse):
        send(Response(200, [pair]), make_environ())


@pytest.mark.parametrize("cls", all_errors(), ids=lambda cls: cls.__name__)
def test_an_error_is_told_by_its_code_and_without_its_message(cls):
    made = {MethodNotAllowed: lambda: cls(("GET",), "SECRET")}.get(cls, lambda: cls("SECRET"))()
    answer = send(problem(made, "id-1", "wasm"), make_environ())
    assert answer.status == cls.status
    assert answer.header("content-type") == "application/problem+json"
    assert answer.header("cache-control") == "no-store"
    assert b"SECRET" not in answer.body
    assert answer.json == {
        "type": f"urn:runnerwsgi:error:{cls.code}",
        "title": cls.title,
        "status": cls.status,
        "detail": made.detail,
        "code": cls.code,
        "request_id": "id-1",
        "backend": "wasm",
    }


def test_some_errors_say_more_in_headers():
    assert dict(problem(Overloaded(retry_after=3), "", "").headers)["Retry-After"] == "3"
    assert dict(problem(MethodNotAllowed(("GET", "HEAD")), "", "").headers)["Allow"] == "GET, HEAD"
    assert problem(Forbidden(detail="Not you."), "", "").body.count(b"Not you.") == 1


def test_json_is_ascii_and_stored_by_nobody():
    response = json_response(200, {"a": "é\u2028"})
    assert response.body.isascii()
    assert json.loads(response.body) == {"a": "é\u2028"}
    assert ("Cache-Control", "no-store") in response.headers


def test_a_guests_answer_crosses_with_our_headers():
    response = guest_response(
        201, (("Content-Type", "text/html"), ("Set-Cookie", "a=1"), ("X-Ext-A", "1")), b"hi", MOUNT
    )
    answer = send(response, make_environ())
    assert (answer.status, answer.body) == (201, b"hi")
    assert answer.header("content-type") == "text/html"
    assert answer.header("x-ext-a") == "1"
    assert answer.header("set-cookie") is None
    assert answer.header("content-security-policy") == "sandbox allow-scripts"
    assert answer.header("cache-control") == "no-store"


@pytest.mark.parametrize(
    "location",
    [f"{MOUNT}/", f"{MOUNT}/a/b?x=/../y#/../z", f"{MOUNT}/...", f"{MOUNT}/%41"],
)
def test_a_redirect_inside_the_mount(location):
    response = guest_response(303, (("location", location),), None, MOUNT)
    assert ("location", location) in response.headers


@pytest.mark.parametrize(
    "location",
    [
        MOUNT,
        f"{MOUNT}s/a",
        f"{MOUNT}/../admin",
        f"{MOUNT}/.",
        f"{MOUNT}/%2e%2E/admin",
        f"{MOUNT}/.%2e/admin",
        f"{MOUNT}/.\t./admin",
        f"{MOUNT}/a b",
        f"{MOUNT}/..\\admin",
        f"{MOUNT}/\xe9",
        f"//evil.test{MOUNT}/",
        f"https://evil.test{MOUNT}/",
        "",
    ],
)
def test_a_redirect_that_a_browser_could_follow_out_of_the_mount(location):
    with pytest.raises(BadRunnerResponse):
        guest_response(302, (("Location", location),), None, MOUNT)
    # Where it redirects nobody it is dropped: some servers follow it inside (mod_wsgi).
    assert not any(
        n == "location"
        for n, _ in guest_response(200, (("Location", location),), b"", MOUNT).headers
    )


def test_a_location_with_200_is_dropped_even_inside_the_mount():
    response = guest_response(200, (("location", f"{MOUNT}/a"),), b"", MOUNT)
    assert not any(name == "location" for name, _ in response.headers)


@pytest.mark.parametrize(
    ("status", "body"),
    [(99, None), (100, None), (600, None), (407, None), (204, b"x"), (304, b"x")],
)
def test_a_guests_status_that_is_no_answer(status, body):
    with pytest.raises(BadRunnerResponse):
        guest_response(status, (), body, MOUNT)


def test_a_body_iterator_is_of_bytes_for_every_server():
    assert list(Response(200, [], b"x")(make_environ(), lambda *args: io.BytesIO().write)) == [b"x"]
