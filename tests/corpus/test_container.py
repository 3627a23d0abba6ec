"""The corpus's container cases: what `runnerwsgi docker up` starts, as the engine sees it."""

import json
import os
import subprocess

import pytest
from corpus.cases import due
from peers import unused_port
from servers import BIN

CASES = {row.values[0]["id"]: row.values[0] for row in due("test_container")}


@pytest.fixture(scope="module")
def started(engine, image, recipe, tmp_path_factory):
    """The container of a new application, as its owner starts it."""
    name = f"{image.replace(':', '-')}-corpus"
    env = {key: value for key, value in os.environ.items() if not key.startswith("RUNNER_")} | {
        "RUNNER_HOME": str(tmp_path_factory.mktemp("home")),
        "RUNNER_DOCKER_CONTAINER": name,
        "RUNNER_DOCKER_IMAGE": image,
        "RUNNER_DOCKER_BASE": recipe.base,
        "RUNNER_DOCKER_HOST": f"http://127.0.0.1:{unused_port()}",
    }

    def docker(command):
        done = subprocess.run(
            [BIN / "runnerwsgi", "docker", command],
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    docker("up")
    try:
        yield engine.inspect("container", name)
    finally:
        docker("down")
        engine.run("volume", "rm", "--force", f"{name}-cache")


def test_g_060(started, engine, image):
    assert CASES["G-060"]["expect"] == {"absent": True}
    config = json.dumps([started["Config"], started["Mounts"], started["HostConfig"]])
    assert "docker.sock" not in config
    assert "DOCKER_HOST" not in config
    assert started["Config"]["User"] == "65532:65532"
    assert not started["HostConfig"]["GroupAdd"]
    look = "import os; print(any('docker' in name for name in os.listdir('/run')), os.getgroups())"
    inside = ("exec", started["Name"].lstrip("/"), "/opt/runnerwsgi/bin/python", "-c", look)
    assert engine.run(*inside).strip() == "False [65532]"


def test_g_061(started):
    host = started["HostConfig"]
    found = {
        "user": "root" if started["Config"]["User"] in ("", "0", "root") else "non-root",
        "read_only": host["ReadonlyRootfs"],
        "cap_drop": ",".join(host["CapDrop"]),
        "no_new_privileges": any(
            option.startswith("no-new-privileges") and not option.endswith("false")
            for option in host["SecurityOpt"]
        ),
        "memory_limit": host["Memory"] > 0,
        "pids_limit": (host["PidsLimit"] or 0) > 0,
        "publish": "127.0.0.1 only",
    }
    assert found == CASES["G-061"]["expect"]
    bound = [one["HostIp"] for ports in host["PortBindings"].values() for one in ports]
    assert bound == ["127.0.0.1"]
    assert not host["Privileged"]
    assert not host["CapAdd"]
