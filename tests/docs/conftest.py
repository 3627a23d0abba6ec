"""The built site, made once."""

import os
import subprocess
import sys

import pytest

from docs.pages import ROOT


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The documentation as `mkdocs build --strict` makes it."""
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: then --strict does not see the warnings either.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
