"""The backend behind its hooks: the contract, its settings, and a gateway around it."""

import subprocess
import sys

import pytest
from runnerwsgi_wasm import SETTINGS, plugin
from support import Site
from wasm.rig import OK, Rig, guest

from runnerwsgi import Gateway, UiAsset
from runnerwsgi.errors import BundleUnavailable, ConfigurationError
from runnerwsgi.protocol import Bundle, HttpRequest
from runnerwsgi.testing import BackendContract
from runnerwsgi.wit import ECHO

ECHO = ECHO.read_text("utf-8")
LOOP = guest("(loop $again (br $again)) unreachable")


class TestContract(BackendContract):
    margin = 0.3

    @pytest.fixture(autouse=True)
    def _rig(self, tmp_path):
        self.rig = Rig(tmp_path)

    def make_backend(self):
        return self.rig.backend

    def sample_request(self):
        self.rig.warm_up(ECHO)
        return self.rig.request(ECHO)

    def echo_request(self, body):
        return self.rig.request(ECHO, HttpRequest("POST", "/", body=body))

    def endless_request(self):
        self.rig.warm_up(LOOP)
        return self.rig.request(LOOP)


def environment(folder, **more):
    return {"RUNNER_HOME": str(folder), "RUNNER_BACKEND": "wasm", **more}


def test_the_environment_makes_a_gateway_around_it(tmp_path):
    gateway = Gateway.from_env(environment(tmp_path))
    rig = Rig(tmp_path)  # the same bundle store
    response = gateway.execute(rig.request(ECHO, timeout_ms=20_000))
    assert response.body == b"GET /things?a=1\n"
    metadata = gateway.metadata()["wasm"]
    assert metadata["cache_dir"] == str(tmp_path / "wasm")
    assert (metadata["compiled"], metadata["max_body_bytes"]) == (1, 64 << 20)
    gateway.close()
    rig.backend.runner_close()


def test_its_settings_are_read(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    backend = plugin(
        environment(tmp_path, RUNNER_WASM_CACHE_DIR=str(elsewhere), RUNNER_WASM_LOG_LINES="7")
    )
    metadata = backend.runner_metadata()
    assert metadata["cache_dir"] == str(elsewhere)
    assert metadata["limits"]["log_lines"] == 7


def test_all_faults_of_its_settings_are_told(tmp_path):
    bad = {"RUNNER_WASM_LOADED": "none", "RUNNER_WASM_CACHE_MB": "4G"}
    with pytest.raises(ConfigurationError) as told:
        plugin(environment(tmp_path, **bad))
    assert len(told.value.faults) == 2
    assert {row.owner for row in SETTINGS} == {"wasm"}


def test_without_wasmtime_it_says_what_to_install(tmp_path):
    script = (
        "import sys; sys.modules['wasmtime'] = None\n"
        "import runnerwsgi_wasm\n"
        "from runnerwsgi.errors import ConfigurationError\n"
        f"env = {environment(tmp_path)!r}\n"
        "try: runnerwsgi_wasm.plugin(env)\n"
        "except ConfigurationError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "pip install 'runnerwsgi[wasm]'" in told.stdout, told.stderr


def test_naming_it_does_not_load_wasmtime():
    script = "import sys, runnerwsgi_wasm; print('wasmtime' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert told.stdout == "False\n"


def test_a_ui_file_is_where_the_store_has_it(rig):
    content_hash = rig.add(ECHO)
    url = rig.backend.runner_resolve_ui_url(UiAsset("t", "e", content_hash, "a b/ü.js"))
    folder = rig.store.get(content_hash).path
    assert url == (folder / "ui" / "a b" / "ü.js").as_uri()


def test_a_bundle_that_cannot_run_fails_when_it_is_warmed_up(rig):
    with pytest.raises(BundleUnavailable, match="exports nothing"):
        rig.warm_up("(component)")
    with pytest.raises(BundleUnavailable):
        rig.backend.runner_warm_up(Bundle("t", "e", "sha256:" + "0" * 64))


def test_a_bundle_that_is_only_a_ui_is_ready(rig):
    assert not rig.warm_up(None).compiled


def test_health_says_what_is_known(fresh):
    rig = fresh()
    before = rig.backend.runner_health()
    assert (before.status, before.checks["guests"]) == ("ok", "not used yet")
    rig.run(ECHO)
    assert rig.backend.runner_health().checks["guests"] == "1 loaded"


@pytest.mark.parametrize(
    ("component", "status", "code"),
    [
        (guest(OK), 200, None),
        (guest("unreachable"), 502, "guest-trap"),
        (guest("(i32.store16 (i32.const 512) (i32.const 99)) (i32.const 512)"), 502, "guest-trap"),
        (LOOP, 504, "guest-timeout"),
        (
            guest("(loop $l (br_if $l (i32.ne (memory.grow (i32.const 99)) (i32.const -1))))"
                  "unreachable"),
            502,
            "guest-out-of-memory",
        ),
    ],
    ids=["an answer", "a trap", "nonsense", "a loop", "a hog"],
)  # fmt: skip
def test_each_end_reaches_the_client_as_its_status(tmp_path, component, status, code):
    import wasmtime

    rig = Rig(tmp_path / "home")
    files = {
        "manifest.json": b'{"name":"acme.hello","version":"1.0.0"}',
        "dist/main.wasm": bytes(wasmtime.wat2wasm(component)),
    }
    with Site(
        tmp_path, backend=lambda store: rig.backend, files=files, timeout_ms=1000, memory_mb=32
    ) as site:
        rig.backend.runner_warm_up(Bundle("t1", "acme.hello", site.bundle.content_hash))
        answer = site.call()
        assert answer.status == status
        assert code is None or answer.code == code
        assert site.send("GET", "/").body == b"host"
