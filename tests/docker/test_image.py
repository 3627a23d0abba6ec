"""The image of the runner: what is in it, and who runs it."""

import json
import zipfile

import pytest
from containers import HARDENED

import runnerwsgi

USER = "65532:65532"


@pytest.fixture(scope="module")
def facts(engine, image):
    """What Docker says of the image."""
    return engine.inspect("image", image)


def inside(engine, image, code, *options):
    """What a Python program printed in a container that is made for it and then gone."""
    python = ("--entrypoint=/opt/runnerwsgi/bin/python", *options, image, "-c", code)
    return json.loads(engine.run("run", "--rm", "--network=none", *HARDENED, *python))


def test_it_says_what_it_is(facts, image):
    labels = facts["Config"]["Labels"]
    names = ("title", "version", "licenses")
    told = [labels[f"org.opencontainers.image.{name}"] for name in names]
    assert told == ["runnerwsgi", runnerwsgi.__version__, "MIT"]
    env = dict(pair.split("=", 1) for pair in facts["Config"]["Env"])
    assert env["RUNNER_IMAGE"] == image
    assert env["RUNNER_REVISION"] == labels["org.opencontainers.image.revision"] != ""


def test_nothing_in_it_needs_a_shell(facts):
    config = facts["Config"]
    assert config["Entrypoint"] == ["/opt/runnerwsgi/bin/runnerwsgi", "runner"]
    assert not config.get("Cmd") or config["Cmd"] is None
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "/opt/runnerwsgi/bin/python"]


def test_its_user_is_nobody_who_exists(facts, engine, image):
    assert facts["Config"]["User"] == USER
    code = "import json, os; print(json.dumps([os.getuid(), os.getgid(), os.getgroups()]))"
    assert inside(engine, image, code) == [65532, 65532, [65532]]


def test_the_user_owns_its_home_and_no_file_of_the_program(engine, image):
    code = """
import json, os
def writable(top):
    return [os.path.join(at, name) for at, folders, files in os.walk(top)
            for name in [*folders, *files] if os.access(os.path.join(at, name), os.W_OK)
            and not os.path.islink(os.path.join(at, name))]
home = os.stat("/var/lib/runnerwsgi")
print(json.dumps([writable("/opt"), oct(home.st_mode & 0o777), home.st_uid]))
"""
    bare = ("--entrypoint=/opt/runnerwsgi/bin/python", image, "-c", code)
    # Without --read-only, which would answer for the file modes.
    assert json.loads(engine.run("run", "--rm", "--network=none", *bare)) == [[], "0o700", 65532]


def test_it_holds_this_very_code_and_no_installer(engine, image, wheel):
    code = """
import importlib.util, json
from importlib.metadata import distribution
files = [str(file) for file in distribution("runnerwsgi").files if ".pyc" not in str(file)]
print(json.dumps([files, importlib.util.find_spec("pip") is not None]))
"""
    files, has_pip = inside(engine, image, code)
    with zipfile.ZipFile(wheel) as archive:
        ours = {name for name in archive.namelist() if ".dist-info" not in name}
    assert {
        name for name in files if name.startswith("runnerwsgi") and "-info/" not in name
    } == ours
    assert not has_pip
