"""Everything we answer passes WebTest's lint, which knows PEP 3333 on its own account."""

import pytest
from support import EXTENSION, Site
from webtest import TestApp as LintedApp

from runnerwsgi import ExecuteResponse

OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def app(site):
    return LintedApp(site.app, lint=True)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_application(app, method):
    assert app.request("/", method=method).headers["Content-Type"] == "text/plain"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file(app, site, method):
    response = app.request(f"{site.ui}index.html", method=method)
    assert response.body == (b"hello" if method == "GET" else b"")
    assert response.headers["Content-Length"] == "5"


def test_a_file_that_did_not_change(app, site):
    etag = app.get(f"{site.ui}index.html").headers["ETag"]
    assert app.get(f"{site.ui}index.html", headers={"If-None-Match": etag}).status_int == 304


@pytest.mark.parametrize(("wanted", "status"), [("bytes=1-2", 206), ("bytes=9-", 416)])
def test_a_part_of_a_file(app, site, wanted, status):
    app.get(f"{site.ui}index.html", headers={"Range": wanted}, status=status)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("bridge.js", 200),
        ("client.js", 200),
        ("healthz", 200),
        (f"extensions/{EXTENSION}", 200),
        ("extensions/no.such", 404),
        ("none", 404),
        ("ext-ui/a..b/x/y", 400),
    ],
)
def test_a_page_of_ours(app, path, status):
    app.get(f"/runner/{path}", headers=OWN, status=status)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_a_handler(app, method):
    body = b"" if method in ("GET", "HEAD", "OPTIONS") else b'{"a": 1}'
    response = app.request(f"/api/ext/{EXTENSION}/x", method=method, body=body, headers=OWN)
    assert response.body == body


@pytest.mark.parametrize("status", [200, 201, 204, 205, 302, 304, 404, 500])
def test_a_handlers_own_status(app, site, status, monkeypatch):
    headers = (("location", f"/api/ext/{EXTENSION}/y"),) if status == 302 else ()
    monkeypatch.setattr(site.backend, "answer", lambda request: ExecuteResponse(status, headers))
    app.get(f"/api/ext/{EXTENSION}/x", headers=OWN, status=status)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", f"/api/ext/{EXTENSION}/x", {}, 403),
        ("GET", "/api/ext/no.such/x", OWN, 404),
        ("POST", "/runner/healthz", OWN, 405),
        ("POST", f"/api/ext/{EXTENSION}/x", {**OWN, "Content-Encoding": "gzip"}, 415),
        ("GET", f"/api/ext/{EXTENSION}/x?{'a' * 9000}", OWN, 414),
        ("GET", f"/api/ext/{EXTENSION}/x", {**OWN, "Accept": "a" * 40_000}, 431),
        ("HEAD", "/api/ext/no.such/x", OWN, 404),
    ],
)
def test_a_refusal(app, method, path, headers, status):
    response = app.request(path, method=method, headers=headers, status=status)
    assert response.content_type == "application/problem+json"


def test_a_failing_backend(app, site, monkeypatch):
    def fail(request):
        raise RuntimeError

    monkeypatch.setattr(site.backend, "answer", fail)
    app.get(f"/api/ext/{EXTENSION}/x", headers=OWN, status=502)
