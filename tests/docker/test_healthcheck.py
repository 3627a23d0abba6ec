"""What Docker runs to see whether the runner in a container is well."""

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from werkzeug.serving import make_server


@contextmanager
def answering(status):
    """A server that says this to everything, and keeps what it was asked."""
    asked = []

    def app(environ, start_response):
        asked.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        start_response(status, [("Content-Type", "text/plain")])
        return [b"so it is"]

    server = make_server("127.0.0.1", 0, app)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def healthcheck(port):
    command = [sys.executable, "-m", "runnerwsgi_docker.healthcheck"]
    env = {**os.environ, "PORT": str(port)}
    ran = subprocess.run(command, env=env, text=True, capture_output=True, timeout=20)
    return ran.returncode, ran.stdout


@pytest.mark.parametrize(
    ("status", "exit_status"), [("200 OK", 0), ("503 Service Unavailable", 1), ("404 Not Found", 1)]
)
def test_it_asks_for_readiness(status, exit_status):
    with answering(status) as (port, asked):
        assert healthcheck(port) == (exit_status, f"{status[:3]} so it is\n")
    assert asked == [("GET", "/health/readiness")]


def test_nothing_listens():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert healthcheck(port) == (1, "ConnectionRefusedError: [Errno 111] Connection refused\n")
