"""The wheel holds what a user needs, and nothing else."""

import configparser
import email
import tomllib
import zipfile
from pathlib import Path

import pytest
from wheels import ROOT

import runnerwsgi

pytestmark = pytest.mark.slow

PACKAGES = {
    "runnerwsgi": ROOT,
    "runnerwsgi_wasm": ROOT / "plugins",
    "runnerwsgi_docker": ROOT / "plugins",
    "runnerwsgi_knative": ROOT / "plugins",
}
DIST_INFO = f"runnerwsgi-{runnerwsgi.__version__}.dist-info"


@pytest.fixture(scope="module")
def files(wheel):
    """Every file of the wheel, by its name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_is_for_every_machine(wheel):
    assert wheel.name == f"runnerwsgi-{runnerwsgi.__version__}-py3-none-any.whl"


def test_nothing_else_becomes_importable(files):
    assert {name.split("/")[0] for name in files} == {*PACKAGES, DIST_INFO}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_of_a_package_is_in_the_wheel(files, package):
    top = PACKAGES[package]
    there = {
        path.relative_to(top).as_posix()
        for path in (top / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there == {name for name in files if name.startswith(f"{package}/")}


@pytest.mark.parametrize(
    "name",
    [
        "runnerwsgi/py.typed",
        "runnerwsgi_wasm/py.typed",
        "runnerwsgi/manifest.schema.json",
        "runnerwsgi/browser/bridge.js",
        "runnerwsgi/browser/client.js",
        "runnerwsgi/wit/alga.wit",
        "runnerwsgi/cli/templates/app.py.txt",
        "runnerwsgi/testing/contract.py",
        f"{DIST_INFO}/licenses/LICENSE",
    ],
)
def test_what_users_rely_on_is_in_the_wheel(files, name):
    assert files[name] or Path(name).name == "py.typed"


def test_entry_points(files):
    parser = configparser.ConfigParser()
    parser.read_string(files[f"{DIST_INFO}/entry_points.txt"].decode())
    assert {section: dict(parser[section]) for section in parser.sections()} == {
        "console_scripts": {"runnerwsgi": "runnerwsgi.cli:main"},
        "runnerwsgi": {
            "wasm": "runnerwsgi_wasm:plugin",
            "docker": "runnerwsgi_docker:plugin",
            "knative": "runnerwsgi_knative:plugin",
        },
    }


def test_metadata(files):
    told = email.message_from_bytes(files[f"{DIST_INFO}/METADATA"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert told["Version"] == runnerwsgi.__version__
    assert told["License-Expression"] == "MIT"
    assert told["Requires-Python"] == project["requires-python"]
    assert set(told.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    assert told["Description-Content-Type"] == "text/markdown"
    assert told.get_payload().startswith("# runnerwsgi")
