"""`serve MODULE:APP`, as a user starts it: in a process of its own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

COMMAND = [sys.executable, "-c", "from runnerwsgi.cli import main; main()", "serve"]
SHOP = '''
from runnerwsgi import Principal, RunnerMiddleware

def plain(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the application"]

def identify(environ):
    return Principal("default", "ada", credential="bearer")

def create_app():
    return plain

def broken():
    raise RuntimeError("no database")

application = plain
wrapped = RunnerMiddleware.from_env(plain, identify=identify)

class Framework:
    """As Flask's object: a WSGI application that holds another one."""

    wsgi_app = RunnerMiddleware.from_env(plain, identify=identify)

    def __call__(self, environ, start_response):
        return self.wsgi_app(environ, start_response)

framework = Framework()
number = 7
'''


@pytest.fixture
def shop(folder):
    (folder / "shop.py").write_text(SHOP)
    (folder / "needy.py").write_text("import a_library_that_is_missing\n")
    (folder / "faulty.py").write_text("1 / 0\n")
    return folder


@contextmanager
def serving(target, *options, stop=signal.SIGTERM, **env):
    """Start a server, give its origin and what it said; it must end well."""
    process = subprocess.Popen(
        [*COMMAND, target, "--port", "0", *options],
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = [process.stdout.readline()]
    origin = re.search(r"http://127\.0\.0\.1:\d+", lines[0])
    try:
        assert origin, process.communicate(timeout=10)[1]
        yield origin[0], lines
    finally:
        process.send_signal(stop)
        said, errors = process.communicate(timeout=10)
        lines += [said, errors]
    assert process.returncode == 0, errors
    assert errors.splitlines()[-1] == "Stopped."
    assert "Traceback" not in errors


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize(
    "target",
    ["shop:application", "shop", "shop.py:application", "./shop.py:plain", "shop:create_app()"],
)
def test_the_application_and_its_extensions(shop, installed, target):
    with serving(target, RUNNER_IDENTITY="local") as (origin, lines):
        assert get(f"{origin}/")[1] == b"the application"
        assert get(f"{origin}/api/ext/demo.hello/hello") == (200, b"GET /hello\n")
    assert "with 8 threads" in lines[0]


def test_the_pages_it_prints_are_there(shop, run, installed):
    (install,) = json.loads(run("installs", "--json").stdout)["installs"]
    with serving("shop:wrapped") as (origin, lines):
        page = origin + install["page"]
        status, body = get(page)
    assert status == 200
    assert b"<h1>Hello</h1>" in body
    assert f"demo.hello for default: {page}" in lines[1]


@pytest.mark.parametrize("target", ["shop:wrapped", "shop:framework"])
def test_what_is_wrapped_already_keeps_its_own_identify(shop, installed, target):
    with serving(target) as (origin, lines):
        status, _ = get(f"{origin}/api/ext/demo.hello/hello")
        assert status == 200
    assert "nobody says who calls" not in lines[-1]


def test_without_anybody_to_say_who_calls_it_warns(shop, installed):
    with serving("shop:application") as (origin, lines):
        assert get(f"{origin}/api/ext/demo.hello/hello")[0] == 401
    assert "warning: nobody says who calls" in lines[-1]
    assert "RUNNER_IDENTITY=local" in lines[-1]


def test_a_function_can_be_named_that_says_who_calls(shop, installed):
    with serving("shop:application", "--identify", "shop:identify") as (origin, _):
        assert get(f"{origin}/api/ext/demo.hello/hello")[0] == 200


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_it_ends_when_told_to(shop, stop):
    with serving("shop:application", stop=stop) as (origin, _):
        assert get(f"{origin}/")[0] == 200


@pytest.mark.parametrize(
    ("options", "env", "threads"),
    [(["--threads", "3"], {}, 3), ([], {"RUNNER_THREADS": "5"}, 5)],
    ids=["typed", "from the environment"],
)
def test_threads(shop, options, env, threads):
    with serving("shop:wrapped", *options, **env) as (_, lines):
        assert f"with {threads} threads" in lines[0]


def failing(*arguments):
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=30)
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("nosuch:app", "There is no module nosuch in"),
        ("nosuch.py:app", "nosuch.py does not exist"),
        ("shop:nosuch", "there is no nosuch in shop. It has create_app, application, wrapped"),
        ("shop:number", "int cannot be called"),
        ("shop:broken()", "shop:broken() failed: RuntimeError: no database"),
        ("needy:app", "needy needs the module a_library_that_is_missing"),
        ("faulty:app", "faulty could not be imported: ZeroDivisionError"),
    ],
)
def test_an_application_that_cannot_be_served(shop, target, complaint):
    done = failing(target, "--port", "0")
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_target_that_means_nothing_is_wrong_usage(shop):
    assert failing("shop:a b").returncode == 2
    assert failing("needy:", "--port", "0").returncode == 2


def test_a_port_that_is_taken(shop):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = failing("shop:application", "--port", port)
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f"error: Port {port} on 127.0.0.1 is taken")
    assert "--port" in error
