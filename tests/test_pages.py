"""What is under the public base: files, the two scripts, where a page is, health."""

import json

import pytest
from support import EXTENSION, FILES, Recorder, Remote, Site, answer_with, http_server

from runnerwsgi import Health, Principal, hookimpl
from runnerwsgi.errors import ConfigurationError, NotFound

UI = {**FILES, "ui/a/b.svg": b"<svg/>", "ui/empty.css": b"", "ui/page.xml": b"<x/>"}
NAVIGATE = {"HTTP_SEC_FETCH_MODE": "navigate", "HTTP_ACCEPT": "text/html,*/*"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with Site(tmp_path_factory.mktemp("site"), files=UI) as site:
        yield site


class Ailing(Recorder):
    @hookimpl
    def runner_health(self):
        return Health("unavailable", {"disk": "full"})

    @hookimpl
    def runner_metadata(self):
        return {"version": "1"}


def test_a_file_leaves_with_every_header_of_ours_and_none_of_others(site):
    answer = site.file()
    headers = {name.lower() for name, _ in answer.headers}
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.header("content-security-policy") == (
        "sandbox allow-scripts; frame-ancestors 'self'"
    )
    assert answer.header("cache-control") == "public, max-age=31536000, immutable"
    assert answer.header("content-type") == "text/html; charset=utf-8"
    assert answer.header("access-control-allow-origin") == "*"
    assert answer.header("cross-origin-resource-policy") == "cross-origin"
    assert answer.header("referrer-policy") == "no-referrer"
    assert answer.header("x-content-type-options") == "nosniff"
    assert "camera=()" in answer.header("permissions-policy")
    assert answer.header("vary") == "Sec-Fetch-Site, Sec-Fetch-Dest, Service-Worker"
    assert not headers & {"set-cookie", "clear-site-data", "access-control-allow-credentials"}


@pytest.mark.parametrize(
    ("path", "media"),
    [("a/b.svg", "image/svg+xml"), ("page.xml", "application/octet-stream")],
)
def test_files_that_may_run_script_are_sandboxed_too(site, path, media):
    answer = site.file(path)
    assert answer.header("content-type") == media
    assert answer.header("content-security-policy").startswith("sandbox")


def test_a_file_is_fetched_once(site):
    before = len(site.backend.assets)
    assert [site.file("app.js").status for _ in range(3)] == [200, 200, 200]
    assert len(site.backend.assets) <= before + 1


@pytest.mark.parametrize("match", ['"{}"', 'W/"{}"', '"x", "{}"', "*"])
def test_a_file_that_did_not_change_is_not_sent_again(site, match):
    etag = site.file().header("etag").strip('"')
    answer = site.file(HTTP_IF_NONE_MATCH=match.format(etag))
    assert (answer.status, answer.body) == (304, b"")
    assert answer.header("etag") == f'"{etag}"'
    assert answer.header("content-security-policy")


@pytest.mark.parametrize("match", ['"other"', '"a", W/"b"', '"', ""])
def test_a_file_that_did_is(site, match):
    assert site.file(HTTP_IF_NONE_MATCH=match).status == 200


@pytest.mark.parametrize(
    ("given", "status", "body", "content_range"),
    [
        ("bytes=0-1", 206, b"he", "bytes 0-1/5"),
        ("bytes=3-", 206, b"lo", "bytes 3-4/5"),
        ("bytes=-2", 206, b"lo", "bytes 3-4/5"),
        ("bytes=0-99", 206, b"hello", "bytes 0-4/5"),
        ("bytes=-99", 206, b"hello", "bytes 0-4/5"),
        ("bytes=5-", 416, b"", "bytes */5"),
        ("bytes=9-12", 416, b"", "bytes */5"),
        ("bytes=0-1,3-4", 200, b"hello", None),
        ("bytes=2-1", 200, b"hello", None),
        ("lines=0-1", 200, b"hello", None),
        ("bytes=a-b", 200, b"hello", None),
        ("bytes=0-" + "9" * 100, 200, b"hello", None),
    ],
)
def test_a_range_of_a_file(site, given, status, body, content_range):
    answer = site.file(HTTP_RANGE=given)
    assert (answer.status, answer.body) == (status, body)
    assert answer.header("content-range") == content_range
    assert answer.header("content-security-policy")


def test_a_range_holds_for_one_version_of_a_file_and_for_get(site):
    etag = site.file().header("etag")
    assert site.file(HTTP_RANGE="bytes=0-1", HTTP_IF_RANGE=etag).status == 206
    assert site.file(HTTP_RANGE="bytes=0-1", HTTP_IF_RANGE='"other"').status == 200
    head = site.send("HEAD", site.ui + "index.html", HTTP_RANGE="bytes=0-1")
    assert (head.status, head.header("content-length")) == (200, "5")


def test_an_empty_file_is_a_file(site):
    answer = site.file("empty.css")
    assert (answer.status, answer.header("content-length")) == (200, "0")
    assert site.file("empty.css", HTTP_RANGE="bytes=0-").status == 416


@pytest.mark.parametrize("path", ["client/route", "client/v1.2", "", "a/"])
def test_a_navigation_to_a_page_of_the_extensions_own_router_gets_the_entry(site, path):
    answer = site.file(path, **NAVIGATE)
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.header("cache-control") == "no-cache"


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("client/route", {}),
        ("client/route", {**NAVIGATE, "HTTP_SEC_FETCH_MODE": "no-cors"}),
        ("missing.js", NAVIGATE),
        ("missing.html", NAVIGATE),
        ("a/missing.png", NAVIGATE),
    ],
)
def test_a_missing_file_is_missing(site, path, more):
    answer = site.file(path, **more)
    assert (answer.status, answer.code) == (404, "not-found")
    assert answer.header("cache-control") == "no-store"


@pytest.mark.parametrize("path", ["100%", "a%41.js"])
def test_a_percent_sign_is_in_no_files_name(site, path):
    assert site.file(path).code == "bad-path"


def test_the_scripts_of_the_page(site):
    bridge, client = site.send(path="/runner/bridge.js"), site.send(path="/runner/client.js")
    assert bridge.status == client.status == 200
    assert bridge.header("content-type") == "text/javascript; charset=utf-8"
    assert bridge.header("cross-origin-resource-policy") == "same-origin"
    assert bridge.header("access-control-allow-origin") is None
    # A module of a page with an opaque origin is a cross-origin request.
    assert client.header("access-control-allow-origin") == "*"
    again = site.send(path="/runner/bridge.js", HTTP_IF_NONE_MATCH=bridge.header("etag"))
    assert (again.status, again.body) == (304, b"")
    assert site.send("POST", "/runner/bridge.js").status == 405


def test_where_a_page_is(site):
    answer = site.send(
        path=f"/runner/extensions/{EXTENSION}",
        SCRIPT_NAME="/app",
        HTTP_SEC_FETCH_SITE="same-origin",
    )
    assert answer.json == {
        "extension": EXTENSION,
        "version": "1.0.0",
        "ui": f"/app{site.ui}index.html?path=%2F&tenant=t1&extensionId={EXTENSION}",
        "api": f"/app/api/ext/{EXTENSION}",
        "sandbox": ["allow-scripts"],
        "max_body_bytes": 1_048_576,
    }
    assert site.send(path=answer.json["ui"].partition("?")[0].removeprefix("/app")).status == 200


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        ("no.such", {}, 404),
        ("a..b", {}, 400),
        (EXTENSION, {"HTTP_SEC_FETCH_SITE": "cross-site"}, 403),
    ],
)
def test_where_no_page_is_told(site, path, more, status):
    assert site.send(path=f"/runner/extensions/{path}", **more).status == status


def test_the_url_of_a_page(site):
    url = site.gateway.ui_url(EXTENSION, "/a b?c", {"SCRIPT_NAME": "/app/"})
    assert url.startswith(f"/app{site.ui}index.html?path=%2Fa+b%3Fc&tenant=t1&")


def test_without_a_request_the_url_is_of_the_default_tenant(site):
    with pytest.raises(NotFound):
        site.gateway.ui_url(EXTENSION)
    site.install("default")
    assert "tenant=default" in site.gateway.ui_url(EXTENSION)
    site.installs.remove("default", EXTENSION)


def test_an_extension_without_pages_has_no_url(tmp_path):
    files = {name: data for name, data in FILES.items() if not name.startswith("ui/")}
    with Site(tmp_path, files=files) as site:
        answer = site.send(path=f"/runner/extensions/{EXTENSION}")
    assert (answer.status, answer.code) == (404, "not-found")


def test_what_a_page_asks_for_beyond_scripts_the_operator_must_grant(tmp_path):
    manifest = json.loads(FILES["manifest.json"]) | {
        "ui": {
            "type": "iframe",
            "entry": "ui/index.html",
            "sandbox": ["allow-forms", "allow-popups"],
        }
    }
    files = {**FILES, "manifest.json": json.dumps(manifest).encode()}
    with Site(tmp_path, files=files) as site:
        site.install(sandbox=["allow-forms", "allow-modals"])
        policy = site.file().header("content-security-policy")
    assert policy.split("; ")[0] == "sandbox allow-scripts allow-forms"


def test_the_applications_own_origins_may_frame_a_page_from_another_one(tmp_path):
    origins = ("https://app.example.com", "https://www.example.com")
    with Site(tmp_path, public_origins=origins) as site:
        policy = site.file().header("content-security-policy")
    assert policy.split("; ")[1] == f"frame-ancestors 'self' {' '.join(origins)}"


def test_health_is_short_for_everybody_and_long_for_administrators(tmp_path):
    with Site(tmp_path, backend=Ailing) as site:
        answer = site.send(path="/runner/healthz")
        assert (answer.status, answer.json) == (
            503,
            {"status": "unavailable", "backend": "recorder"},
        )
        site.principal = Principal("t1", "root", roles={"admin"})
        answer = site.send(path="/runner/healthz")
    assert answer.json["checks"] == {"disk": "full"}
    assert answer.json["plugins"] == {"recorder": {"version": "1"}}


def test_health_is_told_though_nobody_can_be_identified(tmp_path):
    with Site(tmp_path, identify=lambda environ: 1 / 0) as site:
        answer = site.send(path="/runner/healthz")
    assert (answer.status, answer.json) == (200, {"status": "ok", "backend": "recorder"})


def test_a_remote_file_that_nobody_has_digests_of_is_not_immutable(tmp_path):
    with (
        http_server(lambda h: answer_with(h, b"any", Set_Cookie="a=1", ETag='"x"')) as base,
        Site(tmp_path, backend=Remote) as site,
    ):
        site.backend.base = base
        site.install(digests=False)
        answer = site.file("any/file.js")
        assert (answer.status, answer.body) == (200, b"any")
        assert answer.header("cache-control") == "no-cache"
        assert answer.header("set-cookie") is None
        assert answer.header("etag") != '"x"'
        site.file("any/file.js")
        assert len(site.backend.assets) == 2


def test_a_remote_file_of_other_bytes_is_refused(tmp_path):
    with (
        http_server(lambda h: answer_with(h, b"evil")) as base,
        Site(tmp_path, backend=Remote) as site,
    ):
        site.backend.base = base
        answer = site.file()
    assert (answer.status, answer.code) == (502, "bad-runner-response")
    assert b"evil" not in answer.body


@pytest.mark.parametrize(
    ("base", "status"), [("https://cdn.test/x", 307), ("https://cdn.test/é", 502), ("x:", 502)]
)
def test_files_may_be_left_to_the_backends_own_address(tmp_path, base, status):
    with Site(tmp_path, backend=Remote, ui="redirect") as site:
        site.backend.base = base
        answer = site.file()
    assert answer.status == status
    assert answer.header("location") == (f"{base}/index.html" if status == 307 else None)


def test_an_absolute_base_is_where_pages_are(tmp_path):
    with Site(tmp_path, public_base="https://ui.test/ext") as site:
        url = site.gateway.ui_url(EXTENSION, "/", {"SCRIPT_NAME": "/app"})
        assert url.startswith(f"https://ui.test/ext/ext-ui/{EXTENSION}/sha256:")
        assert site.send(path=site.ui.replace("/runner", "/ext") + "index.html").status == 200
        assert site.file().from_host


def test_a_caller_whom_nobody_knows_gets_no_address(tmp_path):
    with Site(tmp_path, identify=lambda environ: "ada") as site, pytest.raises(ConfigurationError):
        site.gateway.ui_url(EXTENSION, "/", {"PATH_INFO": "/"})
