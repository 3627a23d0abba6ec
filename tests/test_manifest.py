import json

import pytest

from runnerwsgi.errors import BundleError
from runnerwsgi.manifest import MAX_BYTES, Endpoint, Manifest, Ui
from runnerwsgi.protocol import METHODS

LEAST = {"name": "acme.hello", "version": "1.0.0"}


def manifest(**fields):
    return Manifest.from_json(json.dumps(LEAST | fields))


def api(*endpoints):
    names = ("method", "path", "access")
    return {"endpoints": [dict(zip(names, line.split(), strict=False)) for line in endpoints]}


def faults(text):
    with pytest.raises(BundleError) as refused:
        Manifest.from_json(text)
    return str(refused.value).splitlines()[1:]


def test_name_and_version_are_enough():
    found = manifest()
    assert (found.name, found.version) == ("acme.hello", "1.0.0")
    assert (found.publisher, found.runtime, found.ui) == (None, None, None)
    assert (found.capabilities, found.endpoints) == ((), ())


def test_text_and_bytes_give_the_same():
    text = json.dumps(LEAST)
    assert Manifest.from_json(text) == Manifest.from_json(text.encode())


def test_a_manifest_of_the_predecessor_is_understood():
    found = manifest(
        publisher="Acme",
        runtime="wasm-js@1",
        capabilities=["secrets.get", "cap:log.emit", "cap:secrets.get"],
        ui={"type": "iframe", "entry": "ui/index.html", "hooks": {"appMenu": {"label": "Hi"}}},
        api={
            "endpoints": [
                {"method": "GET", "path": "/", "handler": "dist/x", "schedulable": True},
                {"method": "DELETE", "path": "/api/jobs/:id", "handler": "dist/main"},
            ]
        },
        assets=["ui/**/*"],
        sbom="sbom.spdx.json",
        precompiled={"x86_64-linux-gnu": "artifacts/main.cwasm"},
        events=[{"topic": "a", "handler": "b"}],
    )
    assert found.capabilities == ("cap:secrets.get", "cap:log.emit")
    assert found.ui == Ui("ui/index.html", {"appMenu": {"label": "Hi"}})
    assert found.endpoints == (
        Endpoint("GET", "/", "dist/x", schedulable=True),
        Endpoint("DELETE", "/api/jobs/:id", "dist/main"),
    )
    assert found.raw["events"] == [{"topic": "a", "handler": "b"}]


def test_a_page_asks_for_more_than_scripts():
    ui = {"type": "iframe", "entry": "ui/index.html", "sandbox": ["allow-forms"]}
    assert manifest(ui=ui).ui.sandbox == ("allow-forms",)


ROUTES = api(
    "GET /notes",
    "POST /notes admin",
    "GET /notes/:id public",
    "PUT /notes/:name",
    "GET /notes/new",
    "GET /:kind/:id",
    "HEAD /notes/:id/size",
    "GET /files/a.b",
)
FOUND = [
    ("GET", "/notes", "/notes"),
    ("HEAD", "/notes", "/notes"),
    ("POST", "/notes", "/notes"),
    ("PUT", "/notes", None),
    ("GET", "/notes/", None),
    ("GET", "/notes/7", "/notes/:id"),
    ("PUT", "/notes/new", "/notes/:name"),
    ("GET", "/notes/new", "/notes/new"),
    ("GET", "/notes/café", "/notes/:id"),
    ("GET", "/tasks/7", "/:kind/:id"),
    ("GET", "/notes/7/size", None),
    ("HEAD", "/notes/7/size", "/notes/:id/size"),
    ("GET", "/files/aXb", "/:kind/:id"),
    ("get", "/notes", None),
    ("GET", "/", None),
    ("GET", "", None),
]


@pytest.mark.parametrize(
    ("method", "path", "pattern"), FOUND, ids=[f"{method} {path}" for method, path, _ in FOUND]
)
def test_an_endpoint_is_found(method, path, pattern):
    endpoint = manifest(api=ROUTES).endpoint(method, path)
    assert (endpoint and endpoint.path) == pattern


def test_the_level_is_user_unless_access_says_otherwise():
    found = manifest(api=ROUTES)
    access = [
        found.endpoint(*call).level
        for call in [("GET", "/notes"), ("POST", "/notes"), ("GET", "/notes/7")]
    ]
    assert access == ["user", "admin", "public"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/notes", ("GET", "HEAD", "POST")),
        ("/notes/new", ("GET", "HEAD", "PUT")),
        ("/notes/7/size", ("HEAD",)),
        ("/none/of/these", ()),
    ],
)
def test_methods_of_a_path(path, methods):
    assert manifest(api=ROUTES).allowed_methods(path) == methods


@pytest.mark.parametrize(
    ("fields", "complete"),
    [
        ({}, False),
        ({"api": {"endpoints": []}}, False),
        ({"api": api("GET /a", "GET /b")}, False),
        ({"api": api("GET /a", "GET /b user")}, True),
    ],
    ids=["no api", "an empty api", "no access anywhere", "one access"],
)
def test_a_list_of_endpoints_is_complete_once_it_has_an_access(fields, complete):
    assert manifest(**fields).is_complete is complete


def test_the_page_is_named_below_the_ui_folder():
    assert manifest().entry == "index.html"
    assert manifest(ui={"type": "iframe", "entry": "ui/app/start.html"}).entry == "app/start.html"


def test_every_fault_is_told_with_its_path_and_what_to_do():
    told = faults(
        json.dumps(
            {
                "name": "Acme Hello",
                "capabilities": ["cap:ok", "CAP", 3],
                "ui": {"type": "window"},
                "api": {"endpoints": [{"method": "FETCH", "path": "x"}, {"path": "/y"}]},
            }
        )
    )
    assert {line.split(":")[0] for line in told} == {
        "$.name",
        "$.version",
        "$.capabilities[1]",
        "$.capabilities[2]",
        "$.ui.type",
        "$.ui.entry",
        "$.api.endpoints[0].method",
        "$.api.endpoints[0].path",
        "$.api.endpoints[1].method",
    }
    assert '$.ui.type: found "window"; expected "iframe", the only kind of UI there is' in told
    assert "$.version: missing; expected a semantic version" in "\n".join(told)


BAD_FIELDS = {
    "a name with a line end": {"name": "acme.hello\n"},
    "a name with a dot at its end": {"name": "acme."},
    "a name of dots": {"name": "acme..hello"},
    "a name in upper case": {"name": "Acme.hello"},
    "a name that is too long": {"name": "a" * 129},
    "a version of two numbers": {"version": "1.0"},
    "a version with a leading zero": {"version": "01.0.0"},
    "a version with a line end": {"version": "1.0.0\n"},
    "a runtime that is not wasm": {"runtime": "node"},
    "a capability with a space": {"capabilities": ["cap:a b"]},
    "a capability without a name": {"capabilities": ["cap:"]},
    "capabilities as text": {"capabilities": "cap:log.emit"},
    "an entry outside ui": {"ui": {"type": "iframe", "entry": "dist/index.html"}},
    "an entry that climbs": {"ui": {"type": "iframe", "entry": "ui/../manifest.json"}},
    "an entry that is a URL": {"ui": {"type": "iframe", "entry": "https://example.com/"}},
    "a sandbox that frees the page": {
        "ui": {"type": "iframe", "entry": "ui/a", "sandbox": ["allow-same-origin"]}
    },
    "an api without endpoints": {"api": {}},
    "a path that is relative": {"api": api("GET notes")},
    "a path that climbs": {"api": api("GET /a/../b")},
    "a path that ends in dots": {"api": api("GET /a/..")},
    "a path with an empty part": {"api": api("GET //a")},
    "a path with a query": {"api": api("GET /a?b")},
    "a path with a star": {"api": api("GET /*")},
    "a path with half a parameter": {"api": api("GET /a:b")},
    "a path with a nameless parameter": {"api": api("GET /:")},
    "an unknown access": {"api": api("GET /a everybody")},
    "the same endpoint twice": {"api": api("GET /a", "POST /a", "GET /a")},
    "two names for one parameter": {"api": api("GET /:a", "GET /:b")},
}


@pytest.mark.parametrize("fields", BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_a_field_is_refused(fields):
    field = next(iter(fields))
    told = faults(json.dumps(LEAST | fields))
    assert told
    assert all(line.startswith(f"$.{field}") for line in told)


BAD_TEXTS = {
    "not JSON": "{",
    "nothing": "",
    "a list": "[]",
    "a duplicate key": '{"name": "a", "name": "b", "version": "1.0.0"}',
    "a duplicate key further down": '{"name": "a", "version": "1.0.0", "x": {"y": 1, "y": 2}}',
    "NaN": '{"name": "a", "version": "1.0.0", "x": NaN}',
    "a number beyond all numbers": '{"name": "a", "version": "1.0.0", "x": 1e999}',
    "a number of very many digits": '{"x": ' + "9" * 5000 + "}",
    "half a surrogate pair": '{"name": "a", "version": "1.0.0", "x": "\\ud800"}',
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(LEAST).encode(),
    "UTF-16": json.dumps(LEAST).encode("utf-16"),
    "invalid UTF-8": b'{"name": "\xff", "version": "1.0.0"}',
    "nesting without end": '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "too many bytes": json.dumps(LEAST | {"x": "y" * MAX_BYTES}),
}


@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_text_is_refused(text):
    (told,) = faults(text)
    assert told.startswith("$: ")


def test_a_long_list_of_faults_is_cut():
    told = faults(json.dumps(LEAST | {"capabilities": ["NO"] * 90}))
    assert len(told) == 21
    assert told[-1] == "… and 70 more"


def test_only_methods_of_the_protocol_are_in_the_schema():
    for method in METHODS:
        assert manifest(api=api(f"{method} /a")).endpoint(method, "/a")
