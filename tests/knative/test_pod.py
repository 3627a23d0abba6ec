"""What the manifest says of a pod, run by Docker word for word: a runner that works."""

import http.client
import json
import os
import time
import uuid
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from far_stores import web_server
from knative_cli import TOKEN, documents
from peers import unused_port

from runnerwsgi.cli import cli

pytestmark = pytest.mark.docker

START_SECONDS = 60


def options(found, folder):
    """The arguments of `docker run` that say what a Service says of its container."""
    pod = found["Service runner"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    security, limits = container["securityContext"], container["resources"]["limits"]
    assert security["allowPrivilegeEscalation"] is False
    yield f"--user={security['runAsUser']}:{security['runAsGroup']}"
    yield from (f"--cap-drop={name}" for name in security["capabilities"]["drop"])
    yield "--security-opt=no-new-privileges"
    yield from ("--read-only",) * security["readOnlyRootFilesystem"]
    yield f"--memory={limits['memory'].removesuffix('i')}"
    yield f"--cpus={int(limits['cpu'].removesuffix('m')) / 1000}"
    secrets = found[f"Secret {pod['volumes'][2]['secret']['secretName']}"]["stringData"]
    yield from variables(container["env"], secrets)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        yield mounted(mount, volumes[mount["name"]], secrets, folder)


def variables(env, secrets):
    for each in env:
        value = each.get("value")
        if value is None:
            value = secrets[each["valueFrom"]["secretKeyRef"]["key"]]
        yield f"--env={each['name']}={value}"


def mounted(mount, volume, secrets, folder):
    if "emptyDir" in volume:
        # As kubelet makes one: root's, and everybody may write to it.
        size = volume["emptyDir"]["sizeLimit"].removesuffix("i")
        made = "volume-driver=local,volume-opt=type=tmpfs,volume-opt=device=tmpfs"
        made += f',"volume-opt=o=mode=0777,size={size}"'
        return f"--mount=type=volume,destination={mount['mountPath']},volume-nocopy,{made}"
    for item in volume["secret"]["items"]:
        file = folder / item["path"]
        file.write_text(secrets[item["key"]])
        file.chmod(0o644)
    return f"--volume={folder}:{mount['mountPath']}:ro"


@contextmanager
def pod(engine, found, port, folder):
    """The pod of a manifest, with what Knative adds; it takes calls when the block begins."""
    name = f"runnerwsgi-test-{uuid.uuid4().hex[:8]}"
    service = found["Service runner"]["spec"]["template"]["spec"]["containers"][0]
    added = {"PORT": port, "K_SERVICE": "runner", "K_REVISION": "runner-00001"}
    engine.run(
        *("run", "--detach", f"--name={name}", "--network=host"),
        *options(found, folder),
        *(f"--env={variable}={value}" for variable, value in added.items()),
        service["image"],
    )
    try:
        wait_for(port, service["readinessProbe"]["httpGet"]["path"], engine, name)
        yield name
    finally:
        engine.run("rm", "--force", "--volumes", name)


def wait_for(port, path, engine, name):
    end = time.monotonic() + START_SECONDS
    while answer_of(port, path)[0] != 200:
        running = engine.inspect("container", name)["State"]["Running"]
        assert running, "\n".join(engine.lines("logs", name))
        assert time.monotonic() < end, "\n".join(engine.lines("logs", name))
        time.sleep(0.1)


def answer_of(port, path):
    """Status, and the headers in which a runner says what it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers
    except OSError:
        return None, {}
    finally:
        connection.close()


@pytest.fixture
def gateway(tmp_path, monkeypatch, redis_server):
    """An application's folder and settings, on Knative; types commands."""
    for name in [name for name in os.environ if name.startswith("RUNNER_")]:
        monkeypatch.delenv(name)
    with web_server(tmp_path / "served") as web:
        env = {
            "RUNNER_BACKEND": "knative",
            "RUNNER_BASE_URL": f"http://127.0.0.1:{unused_port()}",
            "RUNNER_HOME": str(tmp_path / "home"),
            "RUNNER_SERVICE_TOKEN": TOKEN,
            "RUNNER_BUNDLE_STORE": web.url,
            "RUNNER_ALLOW_INSECURE": "1",
            "RUNNER_IDEMPOTENCY_URL": redis_server.new_store(),
        }
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield env


def typed(*args):
    done = CliRunner().invoke(cli, args, prog_name="runnerwsgi")
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_pod_of_the_manifest_executes_and_keeps_what_it_was_given(
    engine, image, gateway, tmp_path
):
    found = documents("--image", image, **gateway)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    port = int(gateway["RUNNER_BASE_URL"].rpartition(":")[2])
    with pod(engine, found, port, secrets) as name:
        typed("new", "extension", "hello", "--template", "wat")
        typed("push", "hello")
        typed("install", "hello")
        done = json.loads(typed("execute", "demo.hello", "GET", "/hello", "--json"))
        assert done["status"] == 200
        status, told = answer_of(port, "/health/liveness")
        assert status == 200
        assert told["X-Runner-Idempotency"] == "shared"
        assert told["X-Runner-Revision"] == "runner-00001"
        # The folder of compiled code is the runner's alone, in a volume that is everybody's.
        python = "/opt/runnerwsgi/bin/python"
        look = "import os; print(oct(os.stat(os.environ['RUNNER_HOME']).st_mode))"
        assert engine.run("exec", name, python, "-c", look).strip() == "0o40700"
