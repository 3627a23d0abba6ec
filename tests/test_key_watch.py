"""A runner tells of a store of keys that is wrong before any call needs it, and while it lasts."""

import json
import os
import subprocess
import time
from urllib.parse import urlsplit

import pytest
from keyed import SHARED, store_url
from own_servers import PASSWORD, RedisServer
from peers import peer, unused_port
from servers import BIN, runner
from test_server import TOKEN, Rig

LONG_SECONDS = 60


@pytest.fixture
def rig(tmp_path):
    made = []

    def make(url, **more):
        made.append(Rig(tmp_path / "rig", idempotency_url=url, **more))
        made[-1].until("/health/readiness", 200, LONG_SECONDS)
        return made[-1]

    yield make
    for one in made:
        one.app.close()


def judged(one, holds):
    """The health of a runner as soon as *holds* of it."""
    end = time.monotonic() + LONG_SECONDS
    while not holds(found := one.send("GET", "/healthz").json):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


def has_looked(found):
    return found["checks"]["keys"] != "not looked at yet"


@pytest.fixture
def url(request, tmp_path):
    return store_url(request, tmp_path)


@pytest.mark.parametrize("url", SHARED, indirect=True)
def test_a_store_that_is_well_makes_a_runner_no_worse(rig, url):
    found = judged(rig(url), has_looked)
    assert found["status"] == "ok"
    assert found["checks"]["keys"].startswith("claimed and released one in")


def test_keys_in_memory_cannot_fail_and_are_not_looked_at(rig):
    assert "keys" not in rig("memory:").send("GET", "/healthz").json["checks"]


@pytest.mark.redis
def test_a_look_leaves_nothing_in_the_store(redis_server, rig):
    judged(rig(redis_server.new_store(), every=0.01), has_looked)
    with redis_server.client() as client:
        assert not list(client.scan_iter("runnerwsgi:key:look:*"))


@pytest.fixture
def wrong_url(request, redis_server, tmp_path):
    """The URL of a store that cannot be used, in the way that is the fixture's parameter."""
    at = f"127.0.0.1:{redis_server.port}/0"
    if request.param == "reader":
        with redis_server.client() as client:
            client.acl_setuser(
                "reader", enabled=True, passwords="+x", keys=["*"], commands=["+get"]
            )
    return {
        "nobody": f"redis://127.0.0.1:{unused_port()}/0",
        "password": f"redis://:wrong@{at}",
        "reader": f"redis://reader:x@{at}",
        "folder": f"sqlite:////proc/{tmp_path.name}/keys.db",
        "database": f"postgresql://runner:{PASSWORD}@127.0.0.1:{unused_port()}/keys",
    }[request.param]


@pytest.mark.redis
@pytest.mark.parametrize(
    ("wrong_url", "says"),
    [
        pytest.param("nobody", "nobody answers there", id="nobody listens"),
        pytest.param("password", "name or password are wrong", id="wrong password"),
        pytest.param("reader", "allow it get, set", id="no rights"),
        pytest.param("folder", "Make its folder writable", id="a folder that cannot be"),
        pytest.param("database", "check that the server runs", id="no database server"),
    ],
    indirect=["wrong_url"],
)
def test_a_store_that_cannot_be_used_degrades_a_runner_that_stays_ready(
    rig, wrong_url, says, caplog
):
    one = rig(wrong_url)
    found = judged(one, has_looked)
    assert found["status"] == "degraded"
    assert says in found["checks"]["keys"]
    assert found["checks"]["canary"].startswith("executed in")
    assert one.send("GET", "/health/readiness").status == 200
    assert says in caplog.text
    assert PASSWORD not in caplog.text + json.dumps(found)


def test_what_is_wrong_with_a_store_needs_the_token(rig):
    one = rig(f"redis://127.0.0.1:{unused_port()}/0", token=TOKEN)
    found = judged(one, lambda found: found["status"] == "degraded")
    assert found == {"status": "degraded"}


@pytest.mark.redis
def test_a_store_that_goes_and_comes_back_is_told_of_both_times(rig, caplog):
    caplog.set_level("INFO")
    with RedisServer() as server:
        one = rig(server.new_store(), every=0.02)
        judged(one, lambda found: found["status"] == "ok" and has_looked(found))
        server.stop()
        judged(one, lambda found: found["status"] == "degraded")
        server.start()
        judged(one, lambda found: found["status"] == "ok")
    assert "keys_cannot_be_kept" in caplog.text
    assert "keys_are_kept_again" in caplog.text


def test_what_lasts_is_told_again_and_not_at_each_look(rig, caplog):
    with peer(lambda talk: None) as broken:
        judged(
            rig(f"redis://127.0.0.1:{broken.port}/0", every=0.01),
            lambda found: found["status"] == "degraded",
        )
        end = time.monotonic() + LONG_SECONDS
        while (lines := caplog.text.count("keys_cannot_be_kept")) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
        # Redis's client tries twice, and a line is for six looks.
        assert broken.connections > 2 * 2 * 6
        assert lines < broken.connections / 6


def test_a_store_that_hangs_delays_neither_health_nor_readiness(rig, monkeypatch, caplog):
    monkeypatch.setattr("runnerwsgi.idempotency.watch.LOOK_SECONDS", 0.05)
    with peer(lambda talk: talk.sock.recv(1 << 20) and talk.sock.recv(1)) as silent:
        one = rig(f"redis://127.0.0.1:{silent.port}/0", every=0.02)
        found = judged(one, lambda found: found["status"] == "degraded")
        assert "does not answer within" in found["checks"]["keys"]
        assert one.send("GET", "/health/readiness").status == 200
        assert one.send("GET", "/health/liveness").status == 200
        # What hangs is one look, and no second one is begun beside it.
        assert silent.connections == 1
    assert "keys_cannot_be_kept" in caplog.text


def test_a_runner_says_at_its_start_what_to_do_and_its_gateways_doctor_does(tmp_path):
    store = f"redis://127.0.0.1:{unused_port()}/0"
    with runner(tmp_path / "far", RUNNER_IDEMPOTENCY_URL=store) as server:
        end = time.monotonic() + LONG_SECONDS
        while not (told := [one for one in server.logged if "keys" in str(one.get("event"))]):
            assert time.monotonic() < end, server.said
            time.sleep(0.05)
        assert told[0]["event"] == "keys_cannot_be_kept"
        assert told[0]["level"] == "warning"
        assert "check that it runs, and RUNNER_IDEMPOTENCY_URL" in told[0]["reason"]
        env = {
            **{name: text for name, text in os.environ.items() if "RUNNER" not in name},
            "RUNNER_HOME": str(tmp_path / "near"),
            "RUNNER_BACKEND": "knative",
            "RUNNER_BASE_URL": f"http://{urlsplit(server.url).netloc}",
            "RUNNER_CALLBACK_BASE": "http://gateway.test:8000",
        }
        doctor = asked(env, "doctor")["findings"]
        status = asked(env, "knative", "status")
    (found,) = (one for one in doctor if one["what"] == "runner")
    assert found["state"] == "warn"
    assert "nobody answers there" in found["found"]
    assert status["status"] == "degraded"
    assert "nobody answers there" in status["checks"]["keys"]


def asked(env, *words):
    """What a command of the gateway's says."""
    command = [BIN / "runnerwsgi", *words, "--json"]
    return json.loads(subprocess.run(command, env=env, capture_output=True, check=False).stdout)
