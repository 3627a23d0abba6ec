"""The runner in a container of its image, hardened as `runnerwsgi docker up` hardens it."""

import json
import time

import pytest
from containers import container


@pytest.fixture(scope="module")
def runner(engine, image):
    """A runner without bundles, whose health Docker looks at sooner than after ten seconds."""
    name = f"{image.replace(':', '-')}-runner"
    with container(engine, image, name, "--health-interval=1s") as started:
        yield started


def test_it_executes(runner):
    status, headers, body = runner.send(path="/healthz")
    assert (status, json.loads(body)["status"]) == (200, "ok")
    assert headers["x-runner"].startswith("runnerwsgi/")


def test_it_says_which_image_it_is(runner, engine, image):
    about = json.loads(runner.send(path="/healthz")[2])["runner"]
    labels = engine.inspect("image", image)["Config"]["Labels"]
    assert about["image"] == image
    assert about["revision"] == labels["org.opencontainers.image.revision"]


def test_docker_sees_its_health(runner):
    end = time.monotonic() + 30
    while (health := runner.facts["State"]["Health"])["Status"] == "starting":
        assert time.monotonic() < end, health
        time.sleep(0.2)
    assert health["Status"] == "healthy", health


def test_it_ends_in_order_when_docker_stops_it(engine, image):
    with container(engine, image, f"{image.replace(':', '-')}-stopped") as runner:
        engine.run("stop", "--time=20", runner.name)
        assert runner.facts["State"]["ExitCode"] == 0, runner.logs()


def test_a_big_body_finds_a_place_on_the_read_only_root(runner):
    # waitress keeps what is longer than half a megabyte in a temporary file.
    body = json.dumps({"padding": "x" * 900_000})
    headers = {"Content-Type": "application/json"}
    assert runner.send("POST", "/v1/execute", body, headers)[0] in (400, 422)
