"""The corpus's hostile environments, and plugins that disagree or do not load."""

import pickle
import sys
from contextlib import closing

import pytest
from corpus.cases import CORPUS, due
from corpus.connections import connecting
from support import EXTENSION, Site, host_app, make_environ, write_plugin
from switching import Application, states_of, until

from runnerwsgi import RunnerMiddleware, Settings, hookimpl
from runnerwsgi.capabilities import Call
from runnerwsgi.capabilities.egress import Egress
from runnerwsgi.database import Database
from runnerwsgi.discovery import installed
from runnerwsgi.errors import CapabilityError, ConfigurationError
from runnerwsgi.switchboard import Switchboard

# A change while it serves is the last test's.
RELOAD = next(case for case in CORPUS["cases"] if case["id"] == "C-054")
CASES = due("test_config", besides=["C-054"])


class Authorizer:
    def __init__(self, opinion):
        self.name = f"authorizer-{opinion}"
        self.answer = {"allow": True, "deny": False}[opinion]

    @hookimpl
    def runner_authorize(self, principal, install, method, path):
        return self.answer


class Start:
    """An environment, and what came of starting with it."""

    def __init__(self, env, folder, monkeypatch):
        self.env, self.folder = dict(env), folder
        self.site = self.error = self.settings = None
        if self.env.pop("plugin", None) == "raises ImportError":
            source = "raise ImportError('no module named libbroken')"
            write_plugin(folder, "broken", source)
            monkeypatch.syspath_prepend(folder)
            self.env["RUNNER_BACKEND"] = "broken"
        self.opinions = self.env.pop("plugins", ())
        for name in ("http_proxy", "HTTP_PROXY"):
            if name in self.env:
                monkeypatch.setenv(name, self.env[name])
        self.env["RUNNER_HOME"] = str(folder / "home")
        with connecting() as self.connected:
            self.try_to_start()

    def try_to_start(self):
        try:
            self.settings = Settings.from_env(self.env)
            if "RUNNER_BACKEND" in self.env:
                with closing(RunnerMiddleware.from_env(host_app, env=self.env)) as app:
                    if self.env["RUNNER_BACKEND"] == "docker":
                        app.gateway.health()  # what connects, connects now
        except ConfigurationError as error:
            self.error = error
            return
        self.site = Site(
            self.folder,
            plugins=[Authorizer(opinion) for opinion in self.opinions],
            public_base=self.settings.public_base,
        )
        self.site.install()

    def close(self):
        if self.site is not None:
            self.site.app.close()

    @property
    def variable(self):
        *_, last = (name for name in self.env if name != "RUNNER_HOME")
        return last


def denies_all(start):
    egress = Egress(start.settings.egress_allow)
    call = Call("t1", EXTENSION, egress=("https://api.example.com",), timeout=1.0)
    wish = {"method": "GET", "url": "https://api.example.com/", "headers": [], "body": None}
    with pytest.raises(CapabilityError) as caught:
        egress.fetch(call, wish)
    return caught.value.case == "not-allowed"


# What the corpus calls a result, and how it is seen.
RESULTS = {
    "ok": lambda start: start.error is None,
    "ConfigurationError": lambda start: start.error is not None,
    "ConfigurationError at start": lambda start: start.error is not None,
    # No plugin can be marked optional: a plugin that is named must load.
    "start fails unless plugin marked optional": lambda start: start.error is not None,
    "deny all": denies_all,
    "deny": lambda start: start.site.call().code == "forbidden" and not start.site.backend.requests,
}


def is_redacted_in_pickle(start, expected):
    assert expected == "refused or redacted"
    try:
        data = pickle.dumps(start.settings)
    except TypeError:
        return True
    return start.env["RUNNER_SERVICE_TOKEN"].encode() not in data


def is_redacted_in_vars(start, expected):
    assert expected == "redacted"
    fields = {name: getattr(start.settings, name) for name in start.settings.__slots__}
    return start.env["RUNNER_SERVICE_TOKEN"] not in repr(fields)


def public_url_begins(start, prefix):
    return start.site.gateway.ui_url(EXTENSION, "/", make_environ()).startswith(prefix)


CHECKS = {
    "result": lambda start, expected: RESULTS[expected](start),
    "names_variable": lambda start, _: start.variable in str(start.error),
    "names_plugin": lambda start, _: (
        "broken" in str(start.error) and "libbroken" in str(start.error)
    ),
    "value_not_echoed": lambda start, _: (
        not start.env[start.variable] or start.env[start.variable] not in str(start.error)
    ),
    "no_connect_to": lambda start, places: (
        start.connected and not any(place in to for to in start.connected for place in places)
    ),
    "lists_installed_backends": lambda start, _: all(n in str(start.error) for n in installed()),
    "mount": lambda start, mount: (
        start.site.settings.mount == mount and start.site.file().status == 200
    ),
    "public_urls_begin_with": public_url_begins,
    "repr_not_contains": lambda start, texts: not any(t in repr(start.settings) for t in texts),
    "str_not_contains": lambda start, texts: (
        not any(t in str(start.settings) + f"{start.settings.service_token}" for t in texts)
    ),
    "pickle": is_redacted_in_pickle,
    "vars_dump": is_redacted_in_vars,
}


@pytest.mark.parametrize("case", CASES)
def test_an_environment_is_taken_or_refused_as_the_corpus_says(case, tmp_path, monkeypatch):
    with closing(Start(case["input"]["env"], tmp_path, monkeypatch)) as start:
        for key, expected in case["expect"].items():
            assert CHECKS[key](start, expected), (key, expected, start.error)
    assert "broken" not in sys.modules


def test_every_expectation_is_used_by_a_case():
    used = {key for param in CASES for key in param.values[0]["expect"]}
    assert used == set(CHECKS)


@pytest.mark.parametrize(
    ("opinions", "status"), [(("deny", "allow"), 403), (("allow",), 200), ((), 200)], ids=str
)
def test_one_denial_denies_in_any_order_and_no_opinion_is_no_objection(opinions, status, tmp_path):
    with Site(tmp_path, plugins=map(Authorizer, opinions)) as site:
        assert site.call().status == status


def test_what_cannot_be_changed_to_leaves_what_was(tmp_path, caplog):
    env = {name: value for name, value in RELOAD["input"]["env"].items() if name != "reload"}
    assert RELOAD["expect"] == {"result": "old config keeps serving", "log": "config_rejected"}
    # The address is a remote backend's: nobody reads it before one is switched to.
    database = Database(Settings(home=tmp_path).database_url)
    with Application(tmp_path, "wasm", **env) as application, closing(database):
        board = Switchboard(database)
        board.wish({"wasm": "docker"})
        until(lambda: application.health() and states_of(board) == {"refused"})
        assert application.health() == {"status": "ok", "backend": "wasm"}
    assert "config_rejected" in caplog.text
    assert "RUNNER_BASE_URL" in caplog.text
