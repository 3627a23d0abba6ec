"""Our wheel, made of the files that run here, is the one that pip builds of the checkout."""

import sys
import zipfile

import pytest
from packaging.requirements import Requirement
from runnerwsgi_docker import wheel as own
from wheels import run

pytestmark = pytest.mark.slow


def contents(path):
    """The files of our packages in a wheel, and what they hold."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        return {name: archive.read(name) for name in names}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return own.write(tmp_path_factory.mktemp("own"))


def test_it_is_what_pip_builds(written, wheel):
    assert written.name == wheel.name
    assert contents(written) == contents(wheel)


def test_the_same_files_are_the_same_bytes(written, tmp_path):
    assert own.write(tmp_path).read_bytes() == written.read_bytes()


def test_it_can_be_written_again_where_it_was_installed(written, tmp_path):
    installed, again = tmp_path / "installed", tmp_path / "again"
    again.mkdir()
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile")
    run(*pip, "--target", installed, written)
    code = (
        "import sys; from pathlib import Path; from runnerwsgi_docker import wheel; "
        "print(wheel.write(Path(sys.argv[1])), wheel.fingerprint())"
    )
    # Before the path of the editable install, which would answer with the checkout.
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); " + code
    path, fingerprint = run(sys.executable, "-c", code, again, cwd=tmp_path).split()
    assert (again / written.name).read_bytes() == written.read_bytes()
    assert path == str(again / written.name)
    assert fingerprint == own.fingerprint()


def test_what_the_image_requires(written):
    names = {Requirement(line).name for line in own.requirements()}
    assert {"waitress", "SQLAlchemy", "wasmtime", "boto3", "redis", "psycopg"} <= names
    assert not {"pytest", "mypy", "runnerwsgi"} & names
    assert all(Requirement(line).marker is None for line in own.requirements())


def test_traces_of_setuptools_in_a_checkout_do_not_count(written, tmp_path):
    (tmp_path / "runnerwsgi.egg-info").mkdir()
    (tmp_path / "runnerwsgi.egg-info" / "PKG-INFO").write_text("Name: runnerwsgi\nVersion: 0.0.1\n")
    code = "from runnerwsgi_docker import wheel; print(wheel.version(), wheel.fingerprint())"
    told = run(sys.executable, "-c", code, cwd=tmp_path).split()
    assert told == [own.version(), own.fingerprint()]
