"""Which headers cross, and which never do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerwsgi import headers
from runnerwsgi.errors import BadHeader, BadRunnerResponse, HeaderTooLarge

NEVER_IN = [
    "cookie",
    "authorization",
    "proxy-authorization",
    "forwarded",
    "x-forwarded-for",
    "x-real-ip",
    "referer",
    "sec-fetch-site",
    "x-alga-tenant",
    "x-runner-service-token",
    "x-envoy-original-path",
    "k-proxy-request",
    "knative-serving-tag",
    "remote-user",
    "host",
    "range",
    "x-ext-config-unit",
    "x-ext-a b",
]
NEVER_OUT = [
    "set-cookie",
    "clear-site-data",
    "service-worker-allowed",
    "cache-control",
    "content-security-policy",
    "content-length",
    "transfer-encoding",
    "content-encoding",
    "access-control-allow-origin",
    "x-frame-options",
    "x-request-id",
    "x-accel-redirect",
    "x-sendfile",
]


@pytest.mark.parametrize("name", [*headers.REQUEST, "x-ext-anything"])
def test_a_header_that_crosses_to_a_guest(name):
    assert headers.to_guest([(name, "v")], {}) == ((name, "v"),)


@pytest.mark.parametrize("name", NEVER_IN)
def test_a_header_that_no_guest_sees(name):
    assert headers.to_guest([(name, "v")], {}) == ()


def test_an_installs_configuration_cannot_be_overridden_by_a_client():
    client = [("x-ext-config-unit", "forged"), ("X_EXT_CONFIG_UNIT", "forged")]
    assert headers.to_guest(client, {"unit": "h"}) == (("x-ext-config-unit", "h"),)


@pytest.mark.parametrize("name", [*headers.RESPONSE, "x-ext-anything"])
def test_a_header_that_crosses_to_a_browser(name):
    assert headers.from_guest([(name.title(), "v")]) == ([(name, "v")], 0)


@pytest.mark.parametrize("name", NEVER_OUT)
def test_a_header_that_no_browser_sees_from_a_guest(name):
    assert headers.from_guest([(name, "v")]) == ([], 1)


def test_a_request_of_a_hundred_fields_passes_and_one_more_does_not():
    fields = [(f"x-{number}", "") for number in range(100)]
    headers.check_request(fields)
    with pytest.raises(HeaderTooLarge):
        headers.check_request([*fields, ("x", "")])


def test_a_request_of_32_kib_passes_and_one_byte_more_does_not():
    headers.check_request([("a", "v" * (32 * 1024 - 1))])
    with pytest.raises(HeaderTooLarge):
        headers.check_request([("a", "v" * 32 * 1024)])


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a\x7fb", "\x1b[2J"])
def test_a_control_in_a_value_is_refused_on_both_ways(value):
    with pytest.raises(BadHeader):
        headers.check_request([("accept", value)])
    with pytest.raises(BadRunnerResponse):
        headers.check_guest([("x-ext-a", value)])


def test_a_tab_is_no_control():
    headers.check_request([("accept", "a\tb")])
    headers.check_guest([("x-ext-a", "a\tb")])


@pytest.mark.parametrize("name", ["", "a b", "a\r\nb", "a:", "é", "a(b)"])
def test_a_guests_name_that_is_no_token_is_refused(name):
    with pytest.raises(BadRunnerResponse):
        headers.check_guest([(name, "v")])


@pytest.mark.parametrize("pairs", [[("a", "")] * 65, [("a", "v" * 33_000)]], ids=["many", "long"])
def test_a_guests_block_that_is_too_large_is_refused(pairs):
    with pytest.raises(BadRunnerResponse):
        headers.check_guest(pairs)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/index.html", "text/html; charset=utf-8"),
        ("A.JS", "text/javascript; charset=utf-8"),
        ("m.mjs", "text/javascript; charset=utf-8"),
        ("s.svg", "image/svg+xml"),
        ("f.woff2", "font/woff2"),
        ("x.wasm", "application/wasm"),
        ("app.webmanifest", "application/manifest+json; charset=utf-8"),
        ("x.xml", "application/octet-stream"),
        ("x.xhtml", "application/octet-stream"),
        ("x.html.gz", "application/octet-stream"),
        ("html", "application/octet-stream"),
        ("a.html/x", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_a_files_type_comes_from_its_name_alone(path, expected):
    assert headers.content_type(path) == expected


def test_no_option_of_the_sandbox_opens_the_origin():
    words = [*headers.SANDBOX.split(), *headers.SANDBOX_OPTIONS]
    assert words[:2] == ["sandbox", "allow-scripts"]
    for opened in ("allow-same-origin", "allow-top-navigation", "allow-popups-to-escape-sandbox"):
        assert not any(word.startswith(opened) for word in words)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=15), st.text(max_size=15), max_size=5))
def test_whatever_passes_the_check_can_be_sent(pairs):
    try:
        headers.check_guest(tuple(pairs.items()))
    except BadRunnerResponse:
        return
    for name, value in pairs.items():
        line = f"{name}: {value}".encode("latin-1")
        assert not set(line) & set(b"\r\n\0")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300))
def test_what_is_printed_is_one_short_line_of_ascii(text):
    shown = headers.printable(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 10 * 128
