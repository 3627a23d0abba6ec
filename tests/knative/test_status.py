"""`runnerwsgi knative status`: what it prints, and that it wakes nobody."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from knative_double import double
from knative_objects import ksvc, revision
from kube_api import kube_api

from runnerwsgi.cli import cli

HOST = "runner.extensions.svc.cluster.local"
COMMAND = Path(sys.executable).parent / "runnerwsgi"
SCALE = {
    f"autoscaling.knative.dev/{end}-scale": pods for end, pods in (("min", "1"), ("max", "20"))
}
NO_IMAGE = ("False", "ImagePullBackOff", "Back-off pulling image")
FAILED = ("False", "RevisionFailed", 'Revision "runner-00002" failed')
IDLE = {"Active": ("False", "NoTraffic", "The target is not receiving traffic.")}
BROKEN = {"ResourcesAvailable": NO_IMAGE, "Ready": NO_IMAGE, "Active": ("Unknown", "Queued")}
ROUTE = f"http://{HOST}"


@pytest.fixture(scope="module")
def knative(tmp_path_factory):
    """A service without pods: whoever wakes one is found out."""
    with double(tmp_path_factory.mktemp("pod"), pods=0) as knative:
        yield knative
        assert knative.started == 0


@pytest.fixture
def api(tmp_path):
    with kube_api(tmp_path) as api:
        api.put(ksvc())
        api.put(revision(conditions=IDLE))
        yield api


@pytest.fixture
def env(tmp_path, knative, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("RUNNER_", "KUBE"))]:
        monkeypatch.delenv(name)
    return {
        "RUNNER_BASE_URL": knative.url,
        "RUNNER_KNATIVE_HOST": HOST,
        "RUNNER_HOME": str(tmp_path / "home"),
    }


@pytest.fixture
def env_of_api(env, api):
    return env | {
        "RUNNER_KNATIVE_SERVICE": "extensions/runner",
        "KUBECONFIG": str(api.kubeconfig()),
    }


def status(env, *options):
    return CliRunner().invoke(cli, ["knative", "status", *options], env=env)


def lines(said):
    """The lines of the picture, without its branches."""
    return [line.lstrip("├└│─ \u00a0") for line in said.stdout.splitlines()]


def test_without_the_kubernetes_api(env, knative):
    said = status(env)
    assert said.exit_code == 0
    assert lines(said) == [
        f"{knative.url}  ok",
        "control  not asked: RUNNER_KNATIVE_SERVICE is not set",
        f"route  open: Knative answers at {knative.url}",
        "runner  not asked: it has answered no call, and asking would wake it",
    ]


def test_scaled_to_zero_is_well(env_of_api, knative):
    said = status(env_of_api)
    assert said.exit_code == 0
    assert lines(said) == [
        "extensions/runner  ok",
        "control  idle: scaled to zero; the next call starts a pod",
        f"route  open: Knative answers at {knative.url}",
        "runner  not asked: it has answered no call, and asking would wake it",
        f"address  {ROUTE}",
        "revisions",
        "runner-00001  idle: 100 % of the calls, 0 pods",
        f"image registry.example.com/runner@sha256:{'0' * 12}",
        "0 pods or more, each 4 calls at once, 120 s a call",
    ]


def test_pods_run(env_of_api, api):
    api.put(revision(actual=1, desired=3, annotations=SCALE))
    api.put(ksvc(url="https://runner.example.com"))
    # Without "none" the runner would be asked as well, as Kubernetes says that it is kept.
    said = lines(status(env_of_api | {"RUNNER_KNATIVE_PROBE": "none"}))
    assert "control  active: pods run" in said
    assert "runner-00001  active: 100 % of the calls, 1 pod, 3 wanted" in said
    assert "1 to 20 pods, each 4 calls at once, 120 s a call" in said
    assert "public  https://runner.example.com" in said


def test_an_old_revision_serves(env_of_api, api):
    traffic = [
        {"revisionName": "runner-00001", "percent": 100},
        {"revisionName": "runner-00002", "tag": "next", "url": f"http://next-{HOST}"},
    ]
    failed = {"ConfigurationsReady": FAILED, "Ready": FAILED}
    api.put(ksvc(created="runner-00003", traffic=traffic, conditions=failed))
    api.put(revision("runner-00002", conditions=BROKEN))
    said = status(env_of_api)
    assert said.exit_code == 0
    assert lines(said)[0] == "extensions/runner  degraded"
    assert any(line.startswith("control  degraded: ConfigurationsReady") for line in lines(said))
    assert "runner-00001  idle: 100 % of the calls, 0 pods" in lines(said)
    assert "runner-00002  failing: none of the calls, tag next, 0 pods" in lines(said)
    assert "runner-00003  unknown: none of the calls, it cannot be read" in lines(said)
    (why,) = [line for line in lines(said) if line.startswith("ResourcesAvailable")]
    assert why.startswith(
        "ResourcesAvailable False (ImagePullBackOff: Back-off pulling image), for"
    )
    assert not any(line.startswith("Ready") for line in lines(said)), "it repeats the others"


def test_nothing_can_be_started(env_of_api, api):
    api.put(revision(conditions=BROKEN))
    said = status(env_of_api | {"RUNNER_KNATIVE_PROBE": "none"})
    assert said.exit_code == 1
    assert lines(said)[0] == "extensions/runner  unavailable"
    assert "control  failing: runner-00001: ResourcesAvailable False" in said.stdout


@pytest.mark.parametrize(
    ("break_it", "health", "words"),
    [
        (lambda api: api.forbid("services"), "ok", "control  unknown: The Kubernetes API"),
        (lambda api: api.stop(), "ok", "cannot be reached"),
        (lambda api: api.remove("services", "runner"), "degraded", "control  absent"),
        (lambda api: setattr(api, "installed", False), "degraded", "control  not-installed"),
        (lambda api: api.forbid("revisions"), "ok", "unknown: 100 % of the calls, it cannot"),
    ],
    ids=["no right to ask", "no API", "no such service", "no Knative", "no right to revisions"],
)
def test_what_kubernetes_does_not_tell(env_of_api, api, break_it, health, words):
    break_it(api)
    said = status(env_of_api)
    assert lines(said)[0] == f"extensions/runner  {health}"
    assert words in said.stdout


def test_no_way_there(env):
    said = status(env | {"RUNNER_BASE_URL": "http://127.0.0.1:1"})
    assert said.exit_code == 1
    assert "route  down: http://127.0.0.1:1: Connection refused" in lines(said)


def test_for_programs(env_of_api):
    said = status(env_of_api, "--json")
    found = json.loads(said.stdout)
    assert (found["name"], found["status"]) == ("extensions/runner", "ok")
    assert found["layers"]["control"]["word"] == "idle"
    assert found["layers"]["route"]["means"] == "ok"
    assert found["kubernetes"]["revisions"]["runner-00001"]["timeout_s"] == 120


def test_what_others_wrote_does_not_steer_the_terminal(env_of_api, api):
    text = ("False", "RevisionFailed", "\x1b[2J[bold]gone")
    api.put(ksvc(conditions={"ConfigurationsReady": text, "Ready": text}))
    said = status(env_of_api)
    assert "\x1b[2J" not in said.stdout
    assert "\\x1b[2J[bold]gone" in said.stdout


def test_nor_does_it_in_json(env_of_api, api):
    text = ("False", "RevisionFailed", "\x9b2J\u202egone \N{KEY}")
    api.put(ksvc(conditions={"ConfigurationsReady": text, "Ready": text}))
    said = status(env_of_api, "--json")
    assert "\\u009b2J\\u202egone \N{KEY}" in said.stdout
    assert text[2] in json.loads(said.stdout)["layers"]["control"]["detail"]


def test_settings_are_needed(tmp_path, env):
    said = status({"RUNNER_HOME": str(tmp_path)})
    assert said.exit_code == 1
    assert "neither RUNNER_BASE_URL nor RUNNER_KNATIVE_SERVICE is set" in said.stderr


class TestWatch:
    @pytest.fixture
    def watching(self, env_of_api):
        """Start `status --watch`; what ends it is Ctrl-C."""
        started = []

        def watching(*options, **streams):
            process = subprocess.Popen(
                [COMMAND, "knative", "status", "--watch", *options],
                env={"PATH": os.environ["PATH"]} | env_of_api,
                **{"stdout": subprocess.PIPE, "text": True} | streams,
            )
            started.append(process)
            return process

        yield watching
        for process in started:
            process.kill()
            process.communicate()

    def test_each_change_is_told_once(self, watching, api):
        process = watching("--json")
        first = json.loads(process.stdout.readline())
        api.put(revision(actual=1, desired=1))
        second = json.loads(process.stdout.readline())
        words = [one["layers"]["control"]["word"] for one in (first, second)]
        assert words == ["idle", "active"]
        assert second["at"] > first["at"]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0

    def test_in_a_pipe_each_picture_has_its_time(self, watching):
        process = watching()
        assert time.strptime(process.stdout.readline().strip(), "%H:%M:%S")
        assert process.stdout.readline() == "extensions/runner  ok\n"

    def test_on_a_terminal_one_picture_is_drawn_anew(self, watching, api):
        ours, theirs = pty.openpty()
        process = watching(stdout=theirs, stdin=theirs, text=False)
        os.close(theirs)
        assert b"control" in read_until(ours, b"ok: control idle")
        api.put(revision(actual=1, desired=1))
        drawn = read_until(ours, b"ok: control active")
        assert b"\x1b[" in drawn
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
        os.close(ours)


def read_until(stream, words, seconds=20):
    said, end = b"", time.monotonic() + seconds
    while words not in said and time.monotonic() < end:
        said += os.read(stream, 65536)
    assert words in said, said.decode()
    return said
