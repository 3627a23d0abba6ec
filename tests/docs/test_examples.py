"""The examples of the how-to guides do what the guides say, as a reader would run them."""

import importlib
import os
import re
import subprocess
import sys
from contextlib import closing

import pytest
from servers import runner
from werkzeug.test import Client

from docs.pages import DOCS, ROOT, blocks
from runnerwsgi import CapabilityError, Gateway, Principal, wit
from runnerwsgi.capabilities import Call, HostCapabilities
from runnerwsgi.protocol import User

# What a browser says of a call that the application's own page makes.
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}
HANDLER = "/api/ext/demo.hello/hello"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes the files of a guide; gives a function that imports one of them."""
    monkeypatch.setenv("RUNNER_BACKEND", "wasm")
    monkeypatch.setenv("RUNNER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def write(page):
        for block in blocks(DOCS / "how-to" / page):
            if block.runnable:
                file = tmp_path / block.title
                file.parent.mkdir(exist_ok=True)
                file.write_text(block.text)
                names.append(file.stem)
        return importlib.import_module

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_flask_lets_in_who_is_signed_in(written):
    app = written("flask.md")("app").app
    client = Client(app)
    assert b"<runner-extension" in client.get("/").data
    assert client.get(HANDLER, headers=OWN_PAGE).json["code"] == "unauthenticated"
    client.post("/login")
    # Nothing is installed: known to the application, and nothing there.
    assert client.get(HANDLER, headers=OWN_PAGE).json["code"] == "not-found"
    app.wsgi_app.close()


@pytest.mark.parametrize("module", ["app", "explicit"])
def test_plain_wsgi_lets_in_whom_the_server_names(written, module):
    application = written("plain-wsgi.md")(module).application
    client = Client(application)
    assert b"<runner-extension" in client.get("/").data
    assert client.get(HANDLER).json["code"] == "unauthenticated"
    named = client.get(HANDLER, environ_overrides={"REMOTE_USER": "ada"})
    assert named.json["code"] == "not-found"
    application.close()


def test_a_runner_is_a_wsgi_application(written):
    application = written("run-a-runner.md")("runner").application
    client = Client(application)
    answer = client.get("/health/liveness")
    assert (answer.status_code, answer.headers["X-Runner"].split("/")[0]) == (200, "runnerwsgi")
    application.close()


DJANGO_SETTINGS = """
SECRET_KEY = "not secret"
INSTALLED_APPS = [
    "django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
ROOT_URLCONF = __name__
ALLOWED_HOSTS = ["localhost"]
USE_TZ = True
urlpatterns = []
"""

DJANGO_VISIT = """
import django.test
from mysite.wsgi import application, identify
from django.contrib.auth.models import User
from django.core.management import call_command
from werkzeug.test import Client

call_command("migrate", verbosity=0)
User.objects.create_superuser("ada", "ada@example.com", "pw")
session = django.test.Client()
assert session.login(username="ada", password="pw")
client = Client(application)
assert client.get("/api/ext/demo.hello/x").json["code"] == "unauthenticated"
client.set_cookie("sessionid", session.cookies["sessionid"].value)
assert client.get("/api/ext/demo.hello/x").json["code"] == "not-found"
principal = identify({"HTTP_COOKIE": f"sessionid={session.cookies['sessionid'].value}"})
assert (principal.user_name, principal.user_email) == ("ada", "ada@example.com")
assert principal.is_admin
application.close()
"""


def test_django_lets_in_who_has_a_session(written, tmp_path):
    written("django.md")
    (tmp_path / "mysite" / "settings.py").write_text(DJANGO_SETTINGS)
    # Django's settings are a process's for good: hence one of its own.
    done = subprocess.run([sys.executable, "-c", DJANGO_VISIT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_identify_names_the_tenant_of_a_session(written):
    identify = written("identity.md")("identity").identify
    assert identify({}) is None
    assert identify({"HTTP_X_DEMO_SESSION": "s3cr3t"}).tenant_id == "acme"


def test_the_backend_whose_runner_is_elsewhere_executes_there(written, tmp_path):
    plugin = written("write-a-backend.md")("runnerwsgi_shed").plugin
    with (
        runner(tmp_path / "home") as shed,
        closing(Gateway(plugin({"RUNNER_SHED_HOST": shed.url}))) as gateway,
    ):
        assert gateway.probe() is True
        assert gateway.health().status == "ok"
    # Read when it has ended: a line may come a moment after the answer that it tells of.
    assert [line for line in shed.logged if line.get("event") == "execute"]


def test_a_capability_answers_for_the_callers_tenant(written):
    backend = written("write-a-backend.md")("runnerwsgi_mirror").plugin({})
    customers = written("provide-a-capability.md")("customers").plugin({})
    ada = Call("acme", "demo.hello", user=User("u1"), principal=Principal("acme", "u1"))
    with Gateway(backend, customers) as gateway:
        host = HostCapabilities(ada, ["cap:client.read"], gateway.capabilities)
        page = host.call("clients", "list-clients", ({"search": None},), 1.0)
        assert [item["client-name"] for item in page["items"]] == ["Greenway Garden Centre"]
        assert host.call("clients", "get-client", ("c2",), 1.0) is None
        visitor = HostCapabilities(Call("acme", "x"), ["cap:client.read"], gateway.capabilities)
        with pytest.raises(CapabilityError, match="visitors"):
            visitor.call("clients", "list-clients", ({},), 1.0)
    assert {*page["items"][0]} == fields("client-summary")
    assert {*page} == fields("clients-list-result")


def fields(record):
    """The fields of a record in the guests' world."""
    world = wit.ALGA.read_text("utf-8")
    body = re.search(rf"record {record} \{{(.*?)\}}", world, re.DOTALL)[1]
    return set(re.findall(r"^\s*%?([a-z-]+):", body, re.MULTILINE))


def test_the_backend_keeps_the_contract(written, tmp_path):
    written("write-a-backend.md")
    assert_passes(tmp_path, "test_mirror.py")


def test_the_remote_backend_keeps_its_contract(written, tmp_path):
    written("write-a-backend.md")
    with runner(tmp_path / "home") as shed:
        assert_passes(tmp_path, "test_shed.py", RUNNER_SHED_HOST=shed.url)


def assert_passes(folder, file, **env):
    """Run a guide's tests as its reader does."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    env = os.environ | {"PYTHONPATH": str(folder), "RUNNER_TEST_STRICT": ""} | env
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", DOCS / "index.md"], ids=lambda page: page.name
)
def test_the_first_example_wraps_an_application(written, page):
    names = {"__name__": "example"}
    exec(next(block.text for block in blocks(page) if block.language == "python"), names)
    answer = Client(names["app"]).get(HANDLER)
    assert answer.json["code"] == "unauthenticated"
    names["app"].wsgi_app.close()
