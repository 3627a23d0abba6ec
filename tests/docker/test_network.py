"""Where the container can send something to, and get an answer from."""

import os
import subprocess
import uuid

import pytest
from peers import unused_port

# Somewhere else: behind a link of its own, with no way back but to this machine's end of it.
HERE, THERE = "198.51.100.1", "198.51.100.2"
SERVER = """
import http.server
http.server.ThreadingHTTPServer(("", 80), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()
    print("reached")
except OSError as exc:
    print(type(exc).__name__)
"""
# In less than the 10 s that the resolver would ask again and again.
ASK = """
import os, socket
os.environ["RES_OPTIONS"] = "timeout:3 attempts:1"
try:
    print(socket.getaddrinfo("example.com", 80))
except OSError as exc:
    print(type(exc).__name__)
"""


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Another machine, as far as the network can tell: its address; it answers on port 80."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a network")
    end, other = f"rw{uuid.uuid4().hex[:8]}", f"rw{uuid.uuid4().hex[:8]}"
    command = ["unshare", "--net", "sh", "-c", f"read go; exec python3 -c '{SERVER}'"]
    machine = subprocess.Popen(
        command,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    inside = ["nsenter", "--net", "--target", str(machine.pid), "ip"]
    try:
        ip("link", "add", end, "type", "veth", "peer", "name", other)
        wait_for_namespace(machine.pid)
        ip("link", "set", other, "netns", str(machine.pid))
        ip("addr", "add", f"{HERE}/30", "dev", end)
        ip("link", "set", end, "up")
        for words in (["addr", "add", f"{THERE}/30", "dev", other], ["link", "set", other, "up"]):
            subprocess.run([*inside, *words], check=True)
        machine.stdin.write(b"go\n")
        machine.stdin.flush()
        curl = ["curl", "--silent", "--retry", "20", "--retry-connrefused", "--retry-delay", "1"]
        subprocess.run([*curl, f"http://{THERE}/"], check=True, capture_output=True, timeout=30)
        yield THERE
    finally:
        machine.kill()
        machine.communicate()
        subprocess.run(["ip", "link", "delete", end], capture_output=True)


def wait_for_namespace(pid):
    mine = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{pid}/ns/net") == mine:
        pass


def test_it_has_no_way_out_unless_an_install_needs_one(box, elsewhere):
    box.up()
    assert box.inside(REACH, elsewhere, "80") == "TimeoutError"
    assert box.inside(ASK) == "gaierror"

    box.install("--grant", "cap:http.fetch", "--egress", "https://api.example.com")
    done = box.docker("status")
    assert done.exit_code == 1
    assert "it has no way out, but demo.hello of tenant default was granted" in done.stderr
    assert "It has a way out, because demo.hello" in box.up().stderr
    assert box.inside(REACH, elsewhere, "80") == "reached"
    assert box.status()["network"]["is_closed"] is False

    assert box.type("uninstall", "demo.hello").exit_code == 0
    assert "it has a way out that nothing needs" in box.docker("status").stderr
    box.up()
    assert box.inside(REACH, elsewhere, "80") == "TimeoutError"
    assert box.status()["is_well"]


def test_another_container_of_the_same_network_is_not_reached(running, recipe):
    other = f"{running.name}-other"
    python = ("--entrypoint=python3", recipe.base, "-m", "http.server", "80")
    network = f"--network={running.name}-closed"
    running.engine.run("run", "--rm", "--detach", "--name", other, network, *python)
    try:
        networks = running.engine.inspect("container", other)["NetworkSettings"]["Networks"]
        (address,) = [one["IPAddress"] for one in networks.values()]
        assert running.inside(REACH, address, "80") in ("TimeoutError", "ConnectionRefusedError")
    finally:
        running.engine.run("container", "rm", "--force", other)


def test_this_machine_is_reached_on_the_addresses_of_its_bridge(running, tmp_path):
    # Nothing but its own firewall keeps it away: docs/how-to/docker.md says so.
    port = str(unused_port())
    command = ["python3", "-m", "http.server", port, "--bind", "0.0.0.0"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as server:
        try:
            networks = running.facts["NetworkSettings"]["Networks"]
            (gateway,) = [one["Gateway"] for one in networks.values()]
            curl = [
                "curl",
                "--silent",
                "--retry",
                "20",
                "--retry-connrefused",
                "--retry-delay",
                "1",
            ]
            subprocess.run([*curl, f"http://127.0.0.1:{port}/"], check=True, capture_output=True)
            assert running.inside(REACH, gateway, port) == "reached"
        finally:
            server.kill()
