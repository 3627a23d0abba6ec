"""The same answers from the process and from a container of the image, held by `parity`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mirror
import pytest
from containers import container
from wasm import toolchains


@pytest.fixture(scope="module")
def run(engine, image, tmp_path_factory):
    """Type a command in an application's environment that has a container beside it."""
    home = tmp_path_factory.mktemp("home")
    mirror.install(home, tmp_path_factory.mktemp("mirror"))
    (home / "run").mkdir(mode=0o711)
    mounts = (f"{home}/bundles:/bundles:ro", f"{home}/run:/run/runnerwsgi:ro")
    options = [f"--volume={mount}" for mount in mounts]
    name = f"{image.replace(':', '-')}-parity"
    with container(engine, image, name, *options, "--tmpfs=/tmp") as started:
        env = {name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")}
        env |= {"RUNNER_HOME": str(home), "RUNNER_BACKEND": "wasm"}
        env |= {"RUNNER_DOCKER_HOST": started.url, "RUNNER_TIMEOUT_MS": "60000"}
        env["RUNNER_WASM_CACHE_DIR"] = str(toolchains.BUILT / "code")

        def type_command(*words):
            command = [Path(sys.executable).with_name("runnerwsgi"), *words]
            return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)

        yield type_command


def test_a_container_answers_as_the_process_does(run):
    said = run("parity", "demo.mirror", "--backends", "wasm,docker")
    assert said.returncode == 0, said.stdout + said.stderr
    assert "demo.mirror on wasm and docker: no difference" in said.stdout


@pytest.mark.slow
@pytest.mark.toolchain
def test_so_it_does_for_the_example_which_keeps_its_notes_at_the_gateway(run, tmp_path):
    notes = toolchains.notes(tmp_path / "notes")
    bundle = tmp_path / "notes.tar.zst"
    for command in (("pack", notes, "--output", bundle), ("install", bundle, "--yes")):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    said = run("parity", notes, "--backends", "wasm,docker", "--json")
    assert said.returncode == 0, said.stdout + said.stderr
    varying = json.loads(said.stdout)["varying"]
    assert "body /note/id" in varying["POST /notes?customer=acme"]
