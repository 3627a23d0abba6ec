"""`runnerwsgi docker build` and `wheels`, as a user types them."""

import os
import shutil
import subprocess
import tarfile
import uuid

import pytest
from servers import BIN


@pytest.fixture
def tag(engine):
    """The name of an image that is gone afterwards."""
    tag = f"runnerwsgi-tests-build:{uuid.uuid4().hex[:12]}"
    yield tag
    if engine.inspect("image", tag):
        # Not its layers: they are those of the image that all tests share.
        engine.run("image", "rm", "--no-prune", tag)


@pytest.fixture
def empty(engine, tag, tmp_path):
    """An image with nothing in it."""
    tarfile.open(tmp_path / "empty.tar", "w").close()
    engine.run("import", str(tmp_path / "empty.tar"), tag)
    return tag


def runnerwsgi_docker(*args, **env):
    """Exit status, stdout and stderr of a command."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")}
    ran = subprocess.run(
        [BIN / "runnerwsgi", "docker", *map(str, args)],
        env={**outer, **{name: str(value) for name, value in env.items()}},
        text=True,
        capture_output=True,
        timeout=300,
    )
    return ran.returncode, ran.stdout, ran.stderr


def failure(*args, **env):
    """What a command that fails says last, in one line."""
    status, _, stderr = runnerwsgi_docker(*args, **env)
    assert status == 1, stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert line == stderr.splitlines()[-1]
    return line


def test_options_say_how(engine, image, recipe, tag):
    options = ("--base", recipe.base, "--wheels", recipe.wheels, "--tag", tag)
    status, stdout, stderr = runnerwsgi_docker("build", *options)
    built = engine.inspect("image", tag)
    assert (status, stdout) == (0, f"Built {tag} ({built['Id'][7:19]}) from {recipe.base}.\n")
    assert "Step 1/" in stderr or "#1 " in stderr
    assert "DEPRECATED" not in stderr


def test_the_environment_says_how(engine, image, recipe, tag):
    env = {"RUNNER_DOCKER_BASE": recipe.base, "RUNNER_DOCKER_WHEELS": recipe.wheels}
    status, stdout, stderr = runnerwsgi_docker("build", "-q", RUNNER_DOCKER_IMAGE=tag, **env)
    assert (status, stderr) == (0, "")
    assert stdout.startswith(f"Built {tag} (")
    # The same files: nothing but the name that it bears inside is another.
    theirs, ours = (engine.inspect("image", name)["RootFS"]["Layers"] for name in (tag, image))
    assert theirs == ours


def test_it_takes_the_place_of_the_image_that_had_its_name(engine, image, recipe, empty):
    before = engine.inspect("image", empty)["Id"]
    options = ("--base", recipe.base, "--wheels", recipe.wheels, "--tag", empty)
    assert runnerwsgi_docker("build", *options)[0] == 0
    assert engine.inspect("image", empty)["Id"] != before
    assert engine.inspect("image", before) is None


def test_an_image_of_which_there_is_a_container_stays(engine, image, recipe, empty):
    before = engine.inspect("image", empty)["Id"]
    container = engine.run("create", empty, "/never").strip()
    try:
        options = ("--base", recipe.base, "--wheels", recipe.wheels, "--tag", empty)
        assert runnerwsgi_docker("build", *options)[0] == 0
        assert engine.inspect("image", before)
    finally:
        engine.run("rm", container)
        engine.run("image", "rm", before)


def test_a_base_that_there_is_not(engine, recipe, tag):
    options = ("--wheels", recipe.wheels, "--base", "runnerwsgi-tests-nowhere:1", "--tag", tag)
    assert "`docker images` lists what is here" in failure("build", *options)


def test_a_base_without_python(recipe, empty):
    line = failure("build", "--wheels", recipe.wheels, "--base", empty, "--tag", f"{empty}-never")
    assert "the base image has no Python" in line
    assert "the base image has no Python" in failure("wheels", recipe.wheels / "x", "--base", empty)


def containers_of_builds(engine):
    """Those in which an installation has failed; others may go at any time."""
    listed = engine.run("ps", "--all", "--filter=status=exited", "--format={{.ID}} {{.Command}}")
    return {line.split()[0] for line in listed.splitlines() if "/opt/pip/bin/pip" in line}


def test_a_folder_that_lacks_a_wheel(engine, recipe, tag, tmp_path):
    for path in recipe.wheels.glob("*.whl"):
        if not path.name.startswith("pluggy-"):
            shutil.copy(path, tmp_path)
    before = containers_of_builds(engine)
    line = failure("build", "--wheels", tmp_path, "--base", recipe.base, "--tag", tag)
    assert "pip found no wheel of pluggy" in line
    assert containers_of_builds(engine) <= before
    assert "`runnerwsgi docker wheels`" in line


def test_a_folder_is_filled_again_when_it_was_made_for_something_else(
    engine, recipe, tmp_path, monkeypatch
):
    from runnerwsgi_docker import image

    shutil.copytree(recipe.wheels, tmp_path / "wheels")
    stamp = tmp_path / "wheels" / "made-for.txt"
    stamp.write_text("another base\n")
    (tmp_path / "wheels" / next(recipe.wheels.glob("pluggy-*")).name).unlink()
    image.prepare(engine, image.Recipe("unused", recipe.base, tmp_path / "wheels"))
    assert list((tmp_path / "wheels").glob("pluggy-*"))
    assert stamp.read_text().startswith(recipe.base)


def test_without_a_daemon(engine, recipe):
    line = failure("build", "--wheels", recipe.wheels, DOCKER_HOST="unix:///nowhere.sock")
    assert "no Docker daemon answers at unix:///nowhere.sock" in line


def test_wheels_without_an_index(engine, recipe, tmp_path):
    options = (tmp_path, "--base", recipe.base)
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    assert "pip could not get the wheels for Python 3." in failure("wheels", *options, **env)
