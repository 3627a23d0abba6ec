import threading
from wsgiref.validate import validator

import pytest

from runnerwsgi.capabilities.ui_proxy import UiProxy
from runnerwsgi.errors import CapabilityError
from runnerwsgi.routes import RouteGrant


class App:
    """A host application that remembers what it was asked, and answers what its path says."""

    def __init__(self):
        self.seen = []
        self.closed = 0

    def __call__(self, environ, start_response):
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        self.seen.append({**environ, "body": body})
        status = environ["PATH_INFO"].rpartition("/")[2]
        status = status if status.isdigit() else "200"
        start_response(f"{status} Whatever", [("Content-Type", "application/json")])
        return Body(self, [b'{"o', b'k":1}'])


class Body:
    def __init__(self, app, chunks):
        self.app = app
        self.chunks = iter(chunks)

    def __iter__(self):
        return self.chunks

    def close(self):
        self.app.closed += 1


@pytest.fixture
def app():
    return App()


@pytest.fixture
def proxy(app):
    return UiProxy(validator(app))


@pytest.fixture
def call(make_call):
    routes = ("GET /api/**", "POST /api/**", "PUT /api/one", "DELETE /api/one", "GET /status/*")
    return make_call(routes=tuple(map(RouteGrant.parse, routes)))


def refusal(proxy, *args):
    with pytest.raises(CapabilityError) as refused:
        proxy.call_route(*args)
    return refused.value.case


@pytest.mark.parametrize(
    ("route", "payload", "method", "path", "query"),
    [
        pytest.param("/api/x", None, "GET", "/api/x", "", id="a path is a GET"),
        pytest.param("/api/x", b"{}", "POST", "/api/x", "", id="with a payload it is a POST"),
        pytest.param("/api/x", b"", "POST", "/api/x", "", id="an empty payload is one"),
        pytest.param("PUT /api/one", b"1", "PUT", "/api/one", "", id="another method"),
        pytest.param("DELETE /api/one", None, "DELETE", "/api/one", "", id="without a payload"),
        pytest.param("POST /api/x", None, "POST", "/api/x", "", id="a POST without a payload"),
        pytest.param("/api/x?a=1&b=%20", None, "GET", "/api/x", "a=1&b=%20", id="a query, raw"),
        pytest.param("/api/x?", None, "GET", "/api/x", "", id="an empty query"),
        pytest.param("/api/x?u=/../%2f", None, "GET", "/api/x", "u=/../%2f", id="dots in a query"),
        pytest.param("/api/a%20b", None, "GET", "/api/a b", "", id="percent-encoding"),
        pytest.param("/api/%C3%A9", None, "GET", "/api/\xc3\xa9", "", id="as WSGI has it"),
    ],
)
def test_a_granted_route_reaches_the_application(
    app, proxy, call, route, payload, method, path, query
):
    assert proxy.call_route(call, route, payload) == b'{"ok":1}'
    seen = app.seen[0]
    assert (seen["REQUEST_METHOD"], seen["PATH_INFO"], seen["QUERY_STRING"]) == (
        method,
        path,
        query,
    )
    assert seen["body"] == (payload or b"")
    assert seen.get("CONTENT_TYPE") == (None if payload is None else "application/json")
    assert app.closed == 1


def test_the_application_sees_the_principal_and_nothing_of_the_browser(app, proxy, call):
    proxy.call_route(call, "/api/x", None)
    seen = app.seen[0]
    assert seen["runnerwsgi.principal"] is call.principal
    assert seen["runnerwsgi.extension"] == "demo.notes"
    sent = {key for key in seen if key.startswith("HTTP_")}
    assert sent == {"HTTP_HOST", "HTTP_ACCEPT", "HTTP_X_REQUEST_ID"}
    # Applications trust loopback peers; an extension is not one.
    assert "REMOTE_ADDR" not in seen


@pytest.mark.parametrize(
    ("base_url", "server"),
    [
        ("http://localhost", ("http", "localhost", "80", "localhost")),
        ("https://app.example.com", ("https", "app.example.com", "443", "app.example.com")),
        ("http://app:8000", ("http", "app", "8000", "app:8000")),
    ],
)
def test_the_application_is_told_where_it_is(app, call, base_url, server):
    UiProxy(validator(app), base_url=base_url).call_route(call, "/api/x", None)
    names = ("wsgi.url_scheme", "SERVER_NAME", "SERVER_PORT", "HTTP_HOST")
    assert tuple(app.seen[0][name] for name in names) == server


@pytest.mark.parametrize(
    ("status", "case"),
    [
        (200, None),
        (201, None),
        (204, None),
        (301, "internal"),
        (302, "internal"),
        (400, "bad-request"),
        (401, "denied"),
        (403, "denied"),
        (404, "route-not-found"),
        (409, "bad-request"),
        (500, "internal"),
        (503, "internal"),
    ],
)
def test_a_status_becomes_an_error_case(app, call, status, case):
    proxy = UiProxy(app)
    if case is None:
        assert proxy.call_route(call, f"/status/{status}", None) == b'{"ok":1}'
    else:
        assert refusal(proxy, call, f"/status/{status}", None) == case
    assert app.closed == 1


@pytest.mark.parametrize(
    "route",
    [
        "/admin",
        "DELETE /api/x",
        "PUT /api/two",
        "/status/200/x",
        "/API/x",
        "/api",
        "HEAD /api/x",
    ],
)
def test_what_was_not_granted_is_denied_and_never_called(app, proxy, call, route):
    assert refusal(proxy, call, route, None) == "denied"
    assert app.seen == []


def test_without_a_grant_everything_is_denied(app, proxy, make_call):
    assert refusal(proxy, make_call(), "/api/x", None) == "denied"
    assert app.seen == []


def test_without_a_principal_everything_is_denied(app, proxy, make_call):
    call = make_call(principal=None, routes=(RouteGrant.parse("GET /**"),))
    assert refusal(proxy, call, "/api/x", None) == "denied"
    assert app.seen == []


@pytest.mark.parametrize(
    ("route", "payload"),
    [
        ("", None),
        ("api/x", None),
        ("http://other.test/api/x", None),
        ("/api/../admin", None),
        ("/api/%2e%2e/admin", None),
        ("/api/..%2fadmin", None),
        ("/api/%252e%252e/admin", None),
        ("/api/..;/admin", None),
        ("/api/a%2fb", None),
        ("/api/a%2Fb", None),
        ("/api/./x", None),
        ("/api//x", None),
        ("//api/x", None),
        ("/api/a%5cb", None),
        ("/api/a\\b", None),
        ("/api/a%00", None),
        ("/api/a%0d%0ab", None),
        ("/api/a\r\nb", None),
        ("/api/a b", None),
        ("/api/é", None),
        ("/api/%ff", None),
        ("/api/%", None),
        ("/api/x?a=%zz", None),
        ("/api/x#f", None),
        ("/api/x?a#f", None),
        ("/api/" + "x" * 9000, None),
        ("get /api/x", None),
        ("GET  /api/x", None),
        ("TRACE /api/x", None),
        ("CONNECT /api/x", None),
        ("GET /api/x", b"{}"),
        ("HEAD /api/x", b"{}"),
    ],
)
def test_a_malformed_route_is_a_bad_request_and_never_called(app, proxy, call, route, payload):
    assert refusal(proxy, call, route, payload) == "bad-request"
    assert app.seen == []


def call_inside(proxy, make_nested, outcomes):
    """An application that, when called, calls the proxy again."""

    def app(environ, start_response):
        try:
            proxy[0].call_route(make_nested(), "/api/x", None)
        except CapabilityError as refused:
            outcomes.append(refused.case)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"outer"]

    return app


def test_a_route_that_calls_a_route_is_denied(call):
    outcomes, proxy = [], []
    proxy.append(UiProxy(call_inside(proxy, lambda: call, outcomes)))
    assert proxy[0].call_route(call, "/api/x", None) == b"outer"
    assert outcomes == ["denied"]
    assert proxy[0].call_route(call, "/api/x", None) == b"outer"
    assert len(outcomes) == 2


def test_a_nested_call_is_denied_in_the_engines_own_thread_too(call, make_call):
    outcomes, proxy = [], []

    def app(environ, start_response):
        nested = make_call(routes=call.routes)

        def engine():
            outcomes.append(refusal(proxy[0], nested, "/api/x", None))

        thread = threading.Thread(target=engine)
        thread.start()
        thread.join()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"outer"]

    proxy.append(UiProxy(app))
    assert proxy[0].call_route(call, "/api/x", None) == b"outer"
    assert outcomes == ["denied"]


def test_an_exception_leaves_no_trace_for_the_next_call(app, call):
    def broken(environ, start_response):
        raise RuntimeError("the application's own")

    with pytest.raises(RuntimeError):
        UiProxy(broken).call_route(call, "/api/x", None)
    assert UiProxy(app).call_route(call, "/api/x", None) == b'{"ok":1}'


def test_an_exception_while_reading_closes_the_answer(app, call):
    def chunks():
        yield b"a"
        raise RuntimeError("the application's own")

    def broken(environ, start_response):
        start_response("200 OK", [])
        return Body(app, chunks())

    with pytest.raises(RuntimeError):
        UiProxy(broken).call_route(call, "/api/x", None)
    assert app.closed == 1


def test_an_answer_above_the_cap_is_cut_off_and_closed(app, call):
    read = []

    def chunks():
        while True:
            read.append(1)
            yield b"x" * 1000

    def endless(environ, start_response):
        start_response("200 OK", [])
        return Body(app, chunks())

    assert refusal(UiProxy(endless, max_bytes=10_000), call, "/api/x", None) == "internal"
    assert len(read) == 11
    assert app.closed == 1


@pytest.mark.parametrize("careful", [False, True], ids=["and ends", "and goes on"])
def test_what_is_written_above_the_cap_is_refused(call, careful):
    def writer(environ, start_response):
        write = start_response("200 OK", [])
        try:
            write(b"x" * 10_001)
        except CapabilityError:
            if not careful:
                raise
        return []

    assert refusal(UiProxy(writer, max_bytes=10_000), call, "/api/x", None) == "internal"


def test_what_a_late_starter_writes_keeps_its_place(call):
    def late(environ, start_response):
        write = start_response("200 OK", [])
        yield b"one "
        write(b"two ")
        yield b"three"

    assert UiProxy(late).call_route(call, "/api/x", None) == b"one two three"


def test_an_answer_that_drips_ends_with_the_time_of_the_call(make_call, call):
    def drip(environ, start_response):
        start_response("200 OK", [])
        while True:
            threading.Event().wait(0.01)
            yield b"x"

    hurried = make_call(routes=call.routes, timeout=0.1)
    assert refusal(UiProxy(drip), hurried, "/api/x", None) == "internal"


def test_an_application_that_writes_is_understood(call):
    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"one ")
        return [b"two"]

    assert UiProxy(app).call_route(call, "/api/x", None) == b"one two"


def test_an_application_that_starts_late_is_understood(call):
    def app(environ, start_response):
        start_response("404 Not Found", [])
        yield b"nothing"

    assert refusal(UiProxy(app), call, "/api/x", None) == "route-not-found"
