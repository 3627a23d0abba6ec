"""`runnerwsgi docker up`: what is started, with what, and what is said of it."""

import json
import os
import socket
import stat
import time

import pytest
from peers import unused_port
from runnerwsgi_docker.container import STOP_SECONDS


def test_the_container_is_as_hard_as_it_gets(running):
    host, config = running.facts["HostConfig"], running.facts["Config"]
    assert config["User"] == "65532:65532"
    assert host["ReadonlyRootfs"]
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (2 << 30, 2 << 30, 256)
    assert 0 < host["NanoCpus"] <= 2_000_000_000
    assert host["Tmpfs"] == {"/tmp": "rw,noexec,nosuid,nodev,size=64m,mode=1777"}
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert config["StopTimeout"] == STOP_SECONDS > 30
    assert (host["NetworkMode"], host["PidMode"], host["Devices"]) == (
        f"{running.name}-closed",
        "",
        [],
    )


def test_it_is_published_on_loopback_alone(running):
    (bindings,) = running.facts["HostConfig"]["PortBindings"].values()
    port = running.env["RUNNER_DOCKER_HOST"].rpartition(":")[2]
    assert bindings == [{"HostIp": "127.0.0.1", "HostPort": port}]


def test_it_may_write_nothing_of_the_host(running):
    mounts = {one["Destination"]: one for one in running.facts["Mounts"]}
    binds = {target: one["Source"] for target, one in mounts.items() if one["Type"] == "bind"}
    home = running.home
    assert binds == {
        "/bundles": f"{home}/bundles",
        "/run/runnerwsgi": f"{home}/run",
        "/run/secrets": f"{home}/docker/secrets",
    }
    assert not any(mounts[target]["RW"] for target in binds)
    writable = [target for target, one in mounts.items() if one["RW"]]
    assert writable == ["/var/lib/runnerwsgi"]


def test_the_token_is_seen_by_the_container_and_by_nobody_else(running):
    kept, copy = running.home / "docker" / "token", running.home / "docker/secrets/runner-token"
    token = kept.read_text().strip()
    assert len(token) >= 32
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(running.home.stat().st_mode) == 0o700
    assert stat.S_IMODE(copy.parent.parent.stat().st_mode) == 0o700
    assert copy.read_text().strip() == token
    assert running.inside("print(open('/run/secrets/runner-token').read())") == token
    assert token not in json.dumps(running.facts)
    assert token not in running.docker("logs").output


def test_it_cannot_list_the_sockets_of_gateways(running):
    assert stat.S_IMODE((running.home / "run").stat().st_mode) == 0o711


def test_it_can_be_looked_at(running):
    found = running.status()
    assert found["is_well"]
    assert (found["state"], found["token"], found["restarts"]) == ("running", "same", 0)
    assert found["runner"]["state"] == "ok"
    assert found["runner"]["image"] == found["image"]["name"]
    assert found["network"]["is_closed"]
    done = running.docker("status")
    assert done.exit_code == 0
    for word in ("running", "read-only", "no way out", "is the same", running.name):
        assert word in done.stdout


def test_what_it_prints_is_an_environment_that_works(running):
    lines = running.up().stdout.splitlines()
    told = dict(line.removeprefix("export ").split("=", 1) for line in lines)
    names = ("RUNNER_BACKEND", "RUNNER_HOME", "RUNNER_DOCKER_HOST")
    assert told == {name: running.env[name] for name in names}
    assert json.loads(running.up("--json").stdout)["environment"] == told
    assert running.type("health").stdout.startswith("docker: ok")


def test_one_that_is_up_stays_as_it_is(running):
    before = running.facts
    done = running.up()
    assert "is up already" in done.stderr
    after = running.facts
    assert (after["Id"], after["State"]["StartedAt"]) == (
        before["Id"],
        before["State"]["StartedAt"],
    )


def test_bundles_are_seen_at_once(running):
    before = running.facts["State"]["StartedAt"]
    running.install()
    called = running.type("execute", "demo.hello", "GET", "/hello")
    assert called.exit_code == 0, called.output
    assert "x-runner-backend: docker" in called.output
    assert running.facts["State"]["StartedAt"] == before


def test_its_log_can_be_read_and_searched(running):
    running.install()
    told = running.type("execute", "demo.hello", "GET", "/hello?one")
    request = told.output.partition("x-request-id: ")[2].split()[0]
    running.type("execute", "demo.hello", "GET", "/hello?two")
    (line,) = running.docker("logs", "--request-id", request[:8]).stdout.splitlines()
    assert f"info    execute backend=wasm request_id={request}" in line
    about = running.docker("logs", "--extension", "demo.hello").stdout
    assert about.count("execute ") >= 2
    assert "serving" not in about
    assert "serving" in running.docker("logs").stdout
    assert running.docker("logs", "--level", "error").stdout == ""
    raw = running.docker("logs", "--raw", "--request-id", request).stdout
    assert json.loads(raw)["request_id"] == request


def test_another_setting_means_another_container(box):
    box.up()
    first = box.facts["Id"]
    box.up(RUNNER_DOCKER_PIDS=100, RUNNER_LOG_LEVEL="warning")
    assert box.facts["Id"] != first
    assert box.facts["HostConfig"]["PidsLimit"] == 100
    assert "RUNNER_LOG_LEVEL=warning" in box.facts["Config"]["Env"]


def test_a_token_of_ones_own_is_handed_over(box):
    box.up()
    own = "a-token-of-our-own-with-32-characters"
    found = box.status(RUNNER_SERVICE_TOKEN=own)
    assert (found["token"], found["is_well"]) == ("differs", False)
    assert found["runner"]["state"] == "wrong-token"
    assert box.docker("status", RUNNER_SERVICE_TOKEN=own).exit_code == 1
    # The file is read again: the container need not be replaced for it.
    told = box.up(RUNNER_SERVICE_TOKEN=own).stderr
    assert "For the application, with the RUNNER_SERVICE_TOKEN that is set here:" in told
    assert box.status(RUNNER_SERVICE_TOKEN=own)["token"] == "same"
    assert own not in json.dumps(box.facts)


def test_down_leaves_what_was_compiled_unless_told_otherwise(box):
    box.up()
    assert box.docker("down").stderr.endswith(f"{box.name} has ended.\n")
    assert box.facts is None
    assert box.engine.inspect("network", f"{box.name}-closed") is None
    assert box.engine.inspect("volume", f"{box.name}-cache") is not None
    again = box.docker("down", "--volume")
    assert (again.exit_code, again.stderr.endswith(f"There is no {box.name}.\n")) == (0, True)
    assert box.engine.inspect("volume", f"{box.name}-cache") is None
    assert (box.home / "docker" / "token").exists()


def test_restart(box):
    assert "start it with `runnerwsgi docker up`" in box.failure("restart")
    box.up()
    before = box.facts["State"]["StartedAt"]
    assert box.docker("restart").exit_code == 0
    assert box.facts["State"]["StartedAt"] > before


@pytest.mark.skipif(os.geteuid() != 0, reason="kills a process that is not ours")
def test_it_comes_back_after_a_crash(box):
    box.up()
    os.kill(box.facts["State"]["Pid"], 9)
    end = time.monotonic() + 30
    while not (found := box.status())["is_well"] and time.monotonic() < end:
        time.sleep(0.2)
    assert (found["is_well"], found["restarts"]) == (True, 1)


def test_status_of_nothing(box):
    done = box.docker("status")
    assert done.exit_code == 1
    assert f"there is no {box.name}: `runnerwsgi docker up` starts it" in done.stdout
    assert box.status()["state"] == "absent"
    for command in ("logs", "restart"):
        told = box.docker(command)
        assert (told.exit_code, told.stdout) == (1, "")
        assert told.stderr == (
            f"error: There is no container {box.name}: start it with `runnerwsgi docker up`.\n"
        )


def test_a_port_that_is_taken(box):
    with socket.create_server(("127.0.0.1", unused_port())) as taken:
        line = box.failure("up", "--port", taken.getsockname()[1])
    assert "another program has the port" in line
    assert box.facts is None


def test_another_port_than_the_application_looks_at(box):
    port = unused_port()
    box.up("--port", port)
    found = box.status()
    assert not found["is_well"]
    assert f"it is at http://127.0.0.1:{port}, and applications look at " in found["faults"][0]
    assert box.status(RUNNER_DOCKER_HOST=f"http://localhost:{port}")["is_well"]


def test_a_container_of_somebody_else_is_left_alone(box, recipe):
    box.engine.run("create", "--name", box.name, recipe.base, "true")
    for command in ("up", "down", "restart"):
        line = box.failure(command)
        assert f"The container {box.name} is not one of runnerwsgi" in line
        assert "RUNNER_DOCKER_CONTAINER" in line
    assert box.facts["State"]["Status"] == "created"


def test_a_container_of_another_home_is_left_alone(box):
    box.up()
    before = box.facts["Id"]
    line = box.failure("up", RUNNER_HOME=box.folder / "other")
    assert f"belongs to the RUNNER_HOME {box.home}" in line
    assert box.facts["Id"] == before
    (fault,) = box.status(RUNNER_HOME=box.folder / "other")["faults"]  # and not: type `up`
    assert "choose another RUNNER_DOCKER_CONTAINER" in fault


def test_one_that_is_killed_again_and_again_is_told_so(box):
    # Python starts in this much, and the engine does not: each time it gets a little further.
    line = box.failure("up", "--wait", 30, RUNNER_DOCKER_MEMORY="30m")
    assert "was killed" in line


def test_one_that_cannot_live_is_told_with_its_last_words(box):
    line = box.failure("up", RUNNER_DOCKER_MEMORY="12m")
    assert "`runnerwsgi docker logs` shows all that it said" in line
    assert "RUNNER_DOCKER_MEMORY" in line


@pytest.mark.parametrize(
    ("env", "complaint"),
    [
        (
            {"DOCKER_HOST": "unix:///nowhere.sock"},
            "no Docker daemon answers at unix:///nowhere.sock",
        ),
        ({"PATH": "/nowhere"}, "There is no command `docker` on PATH"),
        ({"RUNNER_DOCKER_HOST": "http://extension-runner:8080"}, "reached on this machine only"),
        ({"RUNNER_DOCKER_MEMORY": "much"}, "RUNNER_DOCKER_MEMORY: use a size such as 512m or 2g"),
        ({"RUNNER_DOCKER_CPUS": "0"}, "RUNNER_DOCKER_CPUS: use a number such as 1.5"),
        ({"RUNNER_DOCKER_CONTAINER": "a b"}, "RUNNER_DOCKER_CONTAINER: use a name of letters"),
        ({"RUNNER_DOCKER_CPUS": "512"}, "`docker run` failed: "),
        ({"RUNNER_DOCKER_MEMORY": "1m"}, "`docker run` failed: "),
        (
            {"RUNNER_DOCKER_IMAGE": "runnerwsgi-none:1", "RUNNER_DOCKER_BASE": "localbase:none"},
            "the image is not on this machine",
        ),
    ],
    ids=[
        "no daemon",
        "no docker",
        "a host in a compose network",
        "memory without a number",
        "no processor",
        "a name with a blank",
        "more processors than there are",
        "less memory than Docker takes",
        "no image and no base",
    ],
)
def test_what_goes_wrong_is_one_line(box, env, complaint):
    line = box.failure("up", **env)
    assert complaint in line
    assert line.count("\n") == 1
    assert box.facts is None
