"""What is the matter with Docker is told in one line, whatever `docker` itself says."""

import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
from runnerwsgi_docker.engine import Engine, EngineError


def programs():
    """Each `docker` on PATH: their words differ from version to version."""
    found = {Path(at, "docker").resolve() for at in os.get_exec_path()}
    return sorted(str(path) for path in found if os.access(path, os.X_OK)) or ["docker"]


@pytest.fixture(params=programs())
def docker(engine, request):
    """An engine by way of one of them."""
    return Engine(request.param)


@pytest.fixture
def name(engine, request):
    """A name that no other run uses, and nothing of that name afterwards."""
    name = f"runnerwsgi-tests-{os.getpid()}"
    yield name
    for command in (("rm", "-fv", name), ("volume", "rm", "-f", name), ("image", "rm", "-f", name)):
        with suppress(EngineError):
            engine.run(*command)


@pytest.fixture
def hung(tmp_path):
    """A socket that takes connections, and never says a word."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "hung.sock"))
        listener.listen()
        yield f"unix://{tmp_path}/hung.sock"


def told(engine, *command, **options):
    """How a command fails: the kind, and the one line."""
    with pytest.raises(EngineError) as caught:
        engine.run(*command, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert line.endswith(".")
    return caught.value.kind, line


def elsewhere(docker, **env):
    return Engine(docker._command, {**os.environ, **env})


def test_without_docker():
    kind, line = told(Engine("no-such-docker"), "version")
    assert kind == "no-docker"
    assert "Install Docker" in line


def test_with_a_docker_that_nobody_may_run(tmp_path):
    (tmp_path / "docker").touch(mode=0o600)
    assert told(Engine(str(tmp_path / "docker")), "version")[0] == "no-docker"


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({"DOCKER_HOST": "unix:///nowhere/docker.sock"}, id="no socket"),
        pytest.param({"DOCKER_HOST": "tcp://127.0.0.1:9"}, id="nothing on the port"),
    ],
)
def test_without_a_daemon(docker, env):
    kind, line = told(elsewhere(docker, **env), "ps")
    assert kind == "no-daemon"
    assert env["DOCKER_HOST"] in line


def test_with_a_context_that_there_is_not(docker, monkeypatch):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    kind, line = told(elsewhere(docker, DOCKER_CONTEXT="no-such"), "ps")
    assert kind == "no-context"
    assert "no-such" in line


def test_without_permission(docker, hung, tmp_path):
    # root may use every socket: it becomes somebody else.
    other = "setpriv --reuid=65534 --regid=65534 --clear-groups" if os.geteuid() == 0 else ""
    program = tmp_path / "docker-as-other"
    program.write_text(f'#!/bin/sh\nexec {other} {docker._command} "$@"\n')
    program.chmod(0o755)
    os.chmod(hung.removeprefix("unix://"), 0)
    kind, line = told(Engine(str(program), {**os.environ, "DOCKER_HOST": hung}), "ps")
    assert kind == "no-permission"
    assert "group `docker`" in line


def test_with_a_daemon_that_hangs(docker, hung):
    started = time.monotonic()
    kind, line = told(elsewhere(docker, DOCKER_HOST=hung), "ps", timeout=1)
    assert kind == "silent"
    assert "within 1 s" in line
    assert time.monotonic() - started < 10


def test_an_image_that_there_is_not(docker):
    kind, line = told(docker, "run", "--rm", "runnerwsgi-tests-nowhere:1")
    assert kind in ("no-registry", "no-image")
    assert " image runnerwsgi-tests-nowhere" in line
    assert told(docker, "image", "inspect", "nowhere:1")[0] == "no-image"


@pytest.mark.parametrize("kind", ["container", "image", "network", "volume"])
def test_inspecting_what_there_is_not(docker, kind):
    assert docker.inspect(kind, "runnerwsgi-tests-nowhere") is None


def test_a_port_of_another_program(docker, image, name):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        publish = f"--publish=127.0.0.1:{port}:8080"
        kind, line = told(docker, "run", "--detach", "--name", name, publish, image)
    assert kind == "port-taken"
    assert str(port) in line


def test_a_port_of_another_container(docker, image, name):
    publish = "--publish=127.0.0.1:{}:8080"
    docker.run("run", "--detach", "--name", name, publish.format(""), image)
    ports = docker.inspect("container", name)["NetworkSettings"]["Ports"]["8080/tcp"]
    again = publish.format(ports[0]["HostPort"])
    kind, line = told(docker, "run", "--rm", "--detach", again, image)
    assert kind == "port-taken"
    assert ports[0]["HostPort"] in line


def test_a_name_that_is_taken(docker, image, name):
    docker.run("create", "--name", name, image)
    kind, line = told(docker, "create", "--name", name, image)
    assert kind == "name-taken"
    assert f"docker rm -f {name}" in line


def test_a_container_that_does_not_run(docker, image, name):
    docker.run("create", "--name", name, image)
    assert told(docker, "exec", name, "true")[0] == "not-running"


def test_a_container_that_there_is_not(docker):
    assert told(docker, "stop", "runnerwsgi-tests-nowhere")[0] == "no-container"


def test_a_network_that_there_is_not(docker, image):
    network = "--network=runnerwsgi-tests-nowhere"
    kind, line = told(docker, "run", "--rm", network, image)
    assert kind == "no-network"
    assert "runnerwsgi-tests-nowhere" in line


def test_a_full_disk(docker, image, name, tmp_path):
    options = ("--opt=type=tmpfs", "--opt=device=tmpfs", "--opt=o=size=64k")
    docker.run("volume", "create", "--driver=local", *options, name)
    # Running: a volume of this kind is mounted for as long as somebody uses it.
    docker.run("run", "--detach", "--name", name, f"--volume={name}:/small", image)
    (tmp_path / "big").write_bytes(bytes(1_000_000))
    assert told(docker, "cp", str(tmp_path / "big"), f"{name}:/small/")[0] == "disk-full"


def test_an_option_of_another_version(docker):
    kind, line = told(docker, "ps", "--no-such-option")
    assert kind == "wrong-version"
    assert "--no-such-option" in line


def test_anything_else_is_told_in_docker_s_own_words(docker):
    said = told(docker, "run", "--rm", "--memory=1k", "runnerwsgi-tests-nowhere:1")
    assert said == ("other", "`docker run` failed: Minimum memory limit allowed is 6MB.")


def test_no_argument_gets_into_the_message(docker):
    secret = "s3cr3t-" * 5
    _, line = told(docker, "run", f"--env=TOKEN={secret}", "runnerwsgi-tests-nowhere:1")
    assert secret not in line


def test_lines_come_as_they_are_said_and_end_with_whoever_reads_them(docker, image, name):
    docker.run("run", "--detach", "--name", name, image)
    lines = docker.lines("logs", "--follow", name)
    assert next(lines)
    assert list(children(docker._command))
    lines.close()
    assert not list(children(docker._command))


def children(command):
    """Processes of ours that still run *command*."""
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in path.read_text().split():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[0].decode() == command:
                yield pid


def test_reading_lines_of_a_failure_tells_it(docker):
    with pytest.raises(EngineError) as caught:
        list(docker.lines("logs", "runnerwsgi-tests-nowhere"))
    assert caught.value.kind == "no-container"
