"""One origin: ours under two mounts, the application's everywhere else."""

import json
from contextlib import closing

import pytest
from support import EXTENSION, FILES, Recorder, Site, host_app, make_environ, send

from runnerwsgi import ConfigurationError, Gateway, Principal, RunnerMiddleware, Settings


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.mark.parametrize(
    "path", ["/", "/runners", "/Runner/healthz", "/api", "/api/extension", "/x/runner/healthz", ""]
)
def test_whatever_is_not_ours_is_the_applications(site, path):
    answer = site.send(path=path)
    assert answer.from_host
    assert answer.environ["runnerwsgi.gateway"] is site.gateway


@pytest.mark.parametrize("path", ["/runner", "/runner/", "/runner/x", "/api/ext", "/api/ext/"])
def test_what_is_ours_never_reaches_the_application(site, path):
    answer = site.send(path=path)
    assert (answer.status, answer.code) == (404, "not-found")
    assert not answer.from_host


def test_an_exception_of_the_application_is_the_applications(tmp_path):
    def failing(environ, start_response):
        raise LookupError("mine")

    with Site(tmp_path) as site:
        site.app.app = failing
        with pytest.raises(LookupError, match="mine"):
            site.send()


def test_every_answer_of_ours_has_an_id_that_no_client_chose(site):
    given = {"HTTP_X_REQUEST_ID": "forged", "HTTP_SEC_FETCH_SITE": "same-origin"}
    answers = [
        site.file(**given),
        site.call(**given),
        site.send(path="/runner/healthz", **given),
        site.send(path="/runner/none", **given),
    ]
    ids = {answer.header("x-request-id") for answer in answers}
    assert len(ids) == 4
    assert "forged" not in ids
    assert {answer.header("x-runner-backend") for answer in answers} == {"recorder"}


def test_other_mounts(tmp_path):
    with Site(tmp_path, public_base="/plug/ins", execute_mount="/x") as site:
        page = site.send(path=f"/plug/ins/extensions/{EXTENSION}").json
        assert page["api"] == f"/x/{EXTENSION}"
        assert site.send(path=page["ui"].partition("?")[0]).body == b"hello"
        assert site.send(path=f"/x/{EXTENSION}/a").status == 200
        assert site.send(path="/runner/healthz").from_host
        assert site.call().from_host


def test_without_identify_every_handler_call_is_401(tmp_path):
    with Site(tmp_path) as site:
        app = RunnerMiddleware(
            host_app, site.gateway, installs=site.installs, settings=site.settings
        )
        path = f"/api/ext/{EXTENSION}/hello"
        with closing(app):
            answer = send(app, make_environ(path=path, HTTP_X_TENANT="t1"))
            assert (answer.status, answer.code) == (401, "unauthenticated")
            assert send(app, make_environ(path=site.ui + "index.html")).status == 200
    assert not site.backend.requests


@pytest.mark.parametrize(
    "path", ["/", "/runner/healthz", f"/api/ext/{EXTENSION}/x", "/runner/internal/v1/storage/get"]
)
def test_on_a_server_for_questions_nothing_else_is_answered(site, path):
    answer = send(site.app.questions, make_environ(path=path, HTTP_SEC_FETCH_SITE=None))
    assert (answer.status, answer.code) == (401, "unauthenticated")
    assert not answer.from_host


def test_an_error_of_ours_inside_is_an_answer_and_a_traceback_in_the_log(tmp_path, caplog):
    with Site(tmp_path) as site:
        site.installs.find = None
        answer = site.call()
    assert (answer.status, answer.code) == (500, "internal")
    assert b"Traceback" not in answer.body
    assert b"NoneType" not in answer.body
    assert "TypeError" in caplog.text
    assert answer.header("x-request-id") in caplog.text


def test_the_environment_describes_everything(tmp_path):
    env = {"RUNNER_HOME": str(tmp_path), "RUNNER_BACKEND": "wasm", "RUNNER_EXECUTE_MOUNT": "/x"}
    app = RunnerMiddleware.from_env(host_app, identify=lambda environ: Principal("t", "u"), env=env)
    try:
        assert send(app, make_environ(path="/runner/healthz")).json["backend"] == "wasm"
        assert send(app, make_environ(path="/x/no.such/a")).status == 404
        assert send(app, make_environ(path="/api/ext/no.such/a")).from_host
    finally:
        app.close()


def test_a_faulty_environment_stops_the_start(tmp_path):
    env = {"RUNNER_HOME": str(tmp_path), "RUNNER_BACKEND": "wasm", "RUNNER_THREADS": "many"}
    with pytest.raises(ConfigurationError, match="RUNNER_THREADS"):
        RunnerMiddleware.from_env(host_app, env=env)


def test_closing_closes_the_backend(tmp_path):
    with Site(tmp_path):
        gateway = Gateway(Recorder(None))
        app = RunnerMiddleware(host_app, gateway, settings=Settings(home=tmp_path / "other"))
    app.close()
    assert gateway.plugin_names == ()


def test_an_access_level_of_a_manifest_is_held(tmp_path):
    endpoints = [
        {"method": "GET", "path": "/open", "handler": "h", "access": "public"},
        {"method": "GET", "path": "/notes", "handler": "h"},
        {"method": "POST", "path": "/wipe", "handler": "h", "access": "admin"},
    ]
    manifest = json.loads(FILES["manifest.json"]) | {"api": {"endpoints": endpoints}}
    files = {**FILES, "manifest.json": json.dumps(manifest).encode()}
    with Site(tmp_path, files=files) as site:
        callers = {
            "anonymous": Principal("t1", None),
            "user": Principal("t1", "u1"),
            "admin": Principal("t1", "root", roles={"admin"}),
        }
        found = {}
        for name, site.principal in callers.items():
            calls = (("GET", "open"), ("GET", "notes"), ("POST", "wipe"), ("GET", "other"))
            found[name] = [site.call(*call).status for call in calls]
        assert site.call("DELETE", "notes").header("allow") == "GET, HEAD"
    assert found == {
        "anonymous": [200, 401, 401, 404],
        "user": [200, 200, 403, 404],
        "admin": [200, 200, 200, 404],
    }
