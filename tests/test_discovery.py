"""Plugins by entry-point name: only the named one is imported, and a failure says whose."""

import sys

import pytest
from support import write_plugin

from runnerwsgi import discovery
from runnerwsgi.errors import ConfigurationError

GOOD = "class P:\n    pass\n\n\ndef plugin(env):\n    p = P()\n    p.env = env\n    return p\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution of one plugin, as pip would; forget its module afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def install(name, source=GOOD, **more):
        names.append(name)
        write_plugin(tmp_path, name, source, **more)

    yield install
    for name in names:
        sys.modules.pop(name, None)


def test_the_shipped_backend_is_installed():
    assert "wasm" in discovery.installed()


def test_the_named_plugin_is_made_with_the_environment(install):
    install("goodone")
    assert discovery.load("goodone", {"A": "b"}).env == {"A": "b"}


def test_only_the_named_plugin_is_imported(install):
    install("goodone")
    install("brokenone", "raise RuntimeError")
    discovery.load("goodone", {})
    assert "brokenone" in discovery.installed()
    assert "brokenone" not in sys.modules


@pytest.mark.parametrize(
    ("source", "told"),
    [
        pytest.param("import libmissing", "No module named 'libmissing'", id="a missing import"),
        pytest.param("raise RuntimeError('x')", "RuntimeError: x", id="it raises"),
        pytest.param("other = 1", "cannot be imported", id="no such name"),
        pytest.param("plugin = 1", "is not callable", id="not callable"),
        pytest.param("def plugin(env):\n    env['X']", "KeyError", id="its factory raises"),
        pytest.param("def plugin(env):\n    pass", "must return", id="its factory forgets return"),
    ],
)
def test_a_plugin_that_does_not_load_is_named(install, source, told):
    install("brokenone", source)
    with pytest.raises(ConfigurationError, match="RUNNER_PLUGINS=brokenone") as caught:
        discovery.load("brokenone", {}, variable="RUNNER_PLUGINS")
    assert told in str(caught.value)


def test_a_plugins_own_configuration_error_is_passed_on(install):
    source = "from runnerwsgi import ConfigurationError\n\n\ndef plugin(env):\n"
    install("pickyone", source + "    raise ConfigurationError('RUNNER_PICKYONE_PORT: use 1')\n")
    with pytest.raises(ConfigurationError, match=r"^RUNNER_PICKYONE_PORT: use 1$"):
        discovery.load("pickyone", {})


@pytest.mark.parametrize(("name", "hint"), [("wasn", "Did you mean wasm?"), ("podman", "wasm")])
def test_an_unknown_name_lists_what_is_installed(name, hint):
    with pytest.raises(ConfigurationError, match="Installed: ") as caught:
        discovery.load(name, {})
    assert hint in str(caught.value)


def test_two_distributions_of_one_plugin_are_both_named(install):
    install("firstone")
    install("secondone", plugin="firstone")
    with pytest.raises(ConfigurationError, match="uninstall one of them") as caught:
        discovery.load("firstone", {})
    assert all(f"{name} 1.0" in str(caught.value) for name in ("firstone", "secondone"))
