"""kubectl is the judge: it and we reach the same API, as the same user, by the same files."""

import json
import os
import signal
import sys

import pytest
from knative_objects import NAMESPACE, ksvc
from kube_api import USER, encoded, kube_api
from kubectl import kubectl, viewed
from runnerwsgi_knative.kubernetes.cluster import Cluster, ClusterError
from runnerwsgi_knative.kubernetes.kubeconfig import Kubeconfig

from runnerwsgi.errors import ConfigurationError

EXEC = "client.authentication.k8s.io/v1"


@pytest.fixture
def api(tmp_path):
    with kube_api(tmp_path) as api:
        api.put(ksvc())
        yield api


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def both(api, home):
    """Ask for the service with kubectl and with ours; who the API took each for."""

    def ask(*files):
        config = os.pathsep.join(map(str, files))
        said = kubectl(home, "get", "ksvc", "runner", "-n", NAMESPACE, KUBECONFIG=config)
        assert said.status == 0, said.err
        before = len(api.requests)
        env = {"KUBECONFIG": config, "HOME": str(home), "PATH": os.environ["PATH"]}
        cluster = Cluster.from_env(env, NAMESPACE)
        try:
            assert cluster.get("services", "runner")["metadata"]["name"] == "runner"
        finally:
            cluster.close()
        return api.requests[before - 1].user, api.requests[-1].user

    return ask


def credential(**status):
    return {"apiVersion": EXEC, "kind": "ExecCredential", "status": status}


def program(folder, content, name="tool"):
    """A command that prints *content*, and counts its runs and keeps what it was told."""
    folder.mkdir(exist_ok=True)
    (folder / "content").write_text(content if isinstance(content, str) else json.dumps(content))
    file = folder / name
    file.write_text(
        f"#!{sys.executable}\n"
        "import os, pathlib\n"
        "folder = pathlib.Path(__file__).parent\n"
        "with (folder / 'told').open('a') as told:\n"
        "    told.write('\\0' + os.environ['KUBERNETES_EXEC_INFO'])\n"
        "print((folder / 'content').read_text())\n"
    )
    file.chmod(0o755)
    return file


def told(folder):
    return [json.loads(line) for line in (folder / "told").read_text().split("\0")[1:]]


def by_command(file, **more):
    return {"exec": {"apiVersion": EXEC, "command": str(file), "interactiveMode": "Never"} | more}


def pair_in(api, folder):
    folder.mkdir(exist_ok=True)
    for name, data in zip(("c.pem", "k.pem"), api.client_certificate(), strict=True):
        (folder / name).write_bytes(data)
    (folder / "ca.pem").write_bytes(api.authority.pem)
    (folder / "token").write_text(f"{api.token}\n")


# Who the API takes the caller for, by what stands below `user`.
USERS = {
    "a token": (lambda api, folder: {"token": api.token}, USER),
    "a token's file": (lambda api, folder: {"tokenFile": str(folder / "token")}, USER),
    "a token's file beside the kubeconfig": (lambda api, folder: {"tokenFile": "token"}, USER),
    "a token's file rather than a token": (
        lambda api, folder: {"token": "old", "tokenFile": "token"},
        USER,
    ),
    "files of a certificate and its key": (
        lambda api, folder: {"client-certificate": "c.pem", "client-key": "k.pem"},
        "system:admin",
    ),
    "a certificate and its key": (
        lambda api, folder: {
            "client-certificate-data": encoded((folder / "c.pem").read_bytes()),
            "client-key-data": encoded((folder / "k.pem").read_bytes()),
        },
        "system:admin",
    ),
    "a command that gives a token": (
        lambda api, folder: by_command(program(folder, credential(token=api.token))),
        USER,
    ),
    "a command beside the kubeconfig": (
        lambda api, folder: program(folder, credential(token=api.token)) and by_command("./tool"),
        USER,
    ),
    "a command that gives a certificate": (
        lambda api, folder: by_command(
            program(
                folder,
                credential(
                    clientCertificateData=(folder / "c.pem").read_text(),
                    clientKeyData=(folder / "k.pem").read_text(),
                ),
            )
        ),
        "system:admin",
    ),
    "a token rather than a command": (
        lambda api, folder: {"token": api.token} | by_command("/bin/false"),
        USER,
    ),
}


@pytest.mark.parametrize(("user", "expected"), USERS.values(), ids=USERS)
def test_a_user_is_who_kubectl_says(api, both, tmp_path, user, expected):
    folder = tmp_path / "conf"
    pair_in(api, folder)
    assert both(api.kubeconfig(folder / "config", **user(api, folder))) == (expected, expected)


CLUSTERS = {
    "an authority's file": {"certificate-authority": "ca.pem"},
    "no look at the certificate": {"insecure-skip-tls-verify": True},
    "another name of the server": {
        "certificate-authority": "ca.pem",
        "tls-server-name": "kube.test",
    },
}


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_a_server_is_trusted_as_kubectl_trusts_it(api, both, tmp_path, cluster):
    folder = tmp_path / "conf"
    pair_in(api, folder)
    server = {"server": f"{api.url}/"} | cluster
    config = api.kubeconfig(folder / "config", cluster=server, token=api.token)
    assert both(config) == (USER, USER)


DISTRUSTED = {
    "an authority that did not sign": {},
    "a name that is not the server's": {"tls-server-name": "other.test"},
}


@pytest.mark.parametrize("more", DISTRUSTED.values(), ids=DISTRUSTED)
def test_a_server_that_is_another_is_not_told_the_token(api, home, tmp_path, more):
    authority = {"certificate-authority-data": encoded(api.authority.pem)} if more else {}
    config = api.kubeconfig(cluster={"server": api.url} | authority | more, token=api.token)
    assert kubectl(home, "get", "--raw", "/version", KUBECONFIG=config).status == 1
    cluster = Cluster.from_env({"KUBECONFIG": str(config)}, NAMESPACE)
    with pytest.raises(ClusterError, match="TLS failed") as refused:
        cluster.get("services", "runner")
    assert refused.value.kind == "unreachable"
    assert not api.requests


# Several files, as (file, content); the context that both must come to.
def entry(noun, name, **said):
    return {f"{noun}s": [{"name": name, noun: said}]}


def test_of_several_files_the_first_that_says_something_counts(home, tmp_path):
    (tmp_path / "two").mkdir()
    files = {
        tmp_path / "one": entry("user", "u", token="first")
        | {"current-context": ""}
        | entry("context", "x", cluster="c", user="u"),
        tmp_path / "absent": None,
        tmp_path / "empty": "",
        tmp_path / "two" / "config": entry("cluster", "c", server="https://127.0.0.1:7443")
        | entry("user", "u", token="second", tokenFile="never")
        | {"current-context": "x"},
        tmp_path / "three": entry("context", "x", cluster="c", user="u", namespace="three")
        | {"current-context": "y"},
    }
    for file, content in files.items():
        if content is not None:
            file.write_text(json.dumps(content) if content else "")
    listed = os.pathsep.join(["", *map(str, files)])
    seen = viewed(home, KUBECONFIG=listed)
    access = Kubeconfig.from_env({"KUBECONFIG": listed}).access()
    assert seen["users"][0]["user"] == {"token": access.credentials.current().token}
    assert seen["clusters"][0]["cluster"]["server"] == str(access.origin)
    assert seen["contexts"][0]["context"].get("namespace", "default") == access.namespace


def test_the_usual_file_is_found_in_the_home_folder(api, both, home):
    (home / ".kube").mkdir()
    api.kubeconfig(home / ".kube" / "config")
    assert both() == (USER, USER)


def test_another_context_can_be_named(api, tmp_path):
    config = api.kubeconfig()
    content = json.loads(config.read_text())
    content["contexts"].append({"name": "spare", "context": {"cluster": "test", "namespace": "n"}})
    config.write_text(json.dumps(content))
    access = Kubeconfig.from_env({"KUBECONFIG": str(config)}).access("spare")
    assert (access.namespace, access.credentials.current().token) == ("n", None)


def test_a_context_of_our_setting_that_nobody_has_is_not_the_files_fault(api):
    known = Kubeconfig.from_env({"KUBECONFIG": str(api.kubeconfig())})
    with pytest.raises(ConfigurationError, match="RUNNER_KNATIVE_CONTEXT names context z"):
        known.access("z")


FAULTS = {
    "no such file": (None, "there is no file"),
    "no YAML": ("a: [", "cannot be read"),
    "no kubeconfig": ("- a", "no kubeconfig"),
    "a context that nobody has": ({"current-context": "z"}, "names context z.* there are: x"),
    "no context": ({"current-context": ""}, "names context none"),
    "a cluster that nobody has": (entry("context", "x", cluster="z"), "names cluster z"),
    "a user that nobody has": (entry("context", "x", cluster="c", user="z"), "names user z"),
    "two users of one name": (
        {"users": [{"name": "u"}, {"name": "u"}]},
        "two users named u",
    ),
    "an address that is none": (entry("cluster", "c", server="kube:1/"), "not the address of"),
    "an authority for whom nobody looks": (
        entry(
            "cluster",
            "c",
            server="https://k:1",
            **{"certificate-authority-data": "YQ==", "insecure-skip-tls-verify": True},
        ),
        "take the second out",
    ),
    "a proxy": (
        entry("cluster", "c", server="https://k:1", **{"proxy-url": "http://p:1"}),
        "proxy-url",
    ),
    "a file that is not there": (entry("user", "u", tokenFile="gone"), "gone cannot be read"),
    "data that are not base64": (
        entry("user", "u", **{"client-key-data": "%", "client-certificate-data": "YQ=="}),
        "not base64",
    ),
    "a certificate without a key": (
        entry("user", "u", **{"client-certificate-data": "YQ=="}),
        "but not both",
    ),
    "a provider of old": (entry("user", "u", **{"auth-provider": {"name": "gcp"}}), "1.26"),
    "a name and a password": (entry("user", "u", username="me", password="x"), "1.19"),
    "somebody to act as": (entry("user", "u", token="t", **{"as": "admin"}), "act as somebody"),
    "a doubt about who is trusted": (
        entry("cluster", "c", server="https://k:1", **{"insecure-skip-tls-verify": "false"}),
        "neither true nor false",
    ),
    "sections that are no lists": ({"users": 5}, "no kubeconfig"),
    "a command that is a word": (entry("user", "u", exec="x"), "no command"),
    "arguments that are no list": (
        entry("user", "u", exec={"apiVersion": EXEC, "command": "x", "args": 5}),
        "no command",
    ),
    "a variable without a value": (
        entry("user", "u", exec={"apiVersion": EXEC, "command": "x", "env": [{"name": "A"}]}),
        "no command",
    ),
    "a command of another version": (
        entry("user", "u", exec={"apiVersion": "x/v1alpha1", "command": "x"}),
        "Update the tool",
    ),
    "a command that wants a terminal": (
        entry("user", "u", exec={"apiVersion": EXEC, "command": "x", "interactiveMode": "Always"}),
        "wants a terminal",
    ),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_obeyed_is_refused(tmp_path, fault, message):
    file = tmp_path / "config"
    sound = (
        entry("cluster", "c", server="https://kube.test:6443")
        | entry("user", "u", token="t")
        | entry("context", "x", cluster="c", user="u")
        | {"current-context": "x"}
    )
    if fault is not None:
        file.write_text(fault if isinstance(fault, str) else json.dumps(sound | fault))
    with pytest.raises(ConfigurationError, match=message):
        Cluster.from_env({"KUBECONFIG": str(file)})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("users:\n- user: {token: CANARY: x}\n", id="a token with a colon"),
        pytest.param("users:\n- user:\n    token: 'CANARY\n", id="a token with half its quotes"),
        pytest.param("users:\n- user:\n    token: CANARY\0\n", id="a token with a zero byte"),
        pytest.param(
            json.dumps(
                entry("cluster", "c", server="https://me:CANARY@kube.test")
                | entry("context", "x", cluster="c")
                | {"current-context": "x"}
            ),
            id="a password in the address",
        ),
    ],
)
def test_a_kubeconfig_that_cannot_be_read_is_not_quoted(tmp_path, text):
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        Cluster.from_env({"KUBECONFIG": str(file)})
    assert "CANARY" not in str(raised.value)
    assert str(file) in str(raised.value)


# Commands that give credentials


@pytest.fixture
def with_command(api, tmp_path):
    """A cluster whose credentials a command gives, and the command's folder."""
    made = []

    def make(content, **more):
        folder = tmp_path / "tools"
        config = api.kubeconfig(**by_command(program(folder, content), **more))
        made.append(Cluster.from_env({"KUBECONFIG": str(config)}, NAMESPACE))
        return made[-1], folder

    yield make
    for cluster in made:
        cluster.close()


def test_a_command_runs_once_for_many_questions(api, with_command):
    cluster, folder = with_command(credential(token=api.token))
    for _ in range(3):
        cluster.get("services", "runner")
    assert len(told(folder)) == 1


def test_a_command_runs_again_when_what_it_gave_expires(api, with_command):
    expired = credential(token=api.token, expirationTimestamp="2026-01-01T00:00:00Z")
    cluster, folder = with_command(expired)
    for _ in range(2):
        cluster.get("services", "runner")
    assert len(told(folder)) == 2


def test_a_command_runs_again_when_what_it_gave_is_refused(api, with_command):
    cluster, folder = with_command(credential(token=api.token))
    cluster.get("services", "runner")
    program(folder, credential(token=api.rotate()))
    cluster.get("services", "runner")
    assert len(told(folder)) == 2


EXTENSIONS = [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "a"}}]
INFORMED = {
    "nothing of the cluster": (False, {}),
    "the cluster": (True, {}),
    "the cluster, with the name it goes by": (True, {"tls-server-name": "kube.test"}),
    "the cluster, with what was written for the command": (True, {"extensions": EXTENSIONS}),
}


@pytest.mark.parametrize(("informed", "more"), INFORMED.values(), ids=INFORMED)
def test_a_command_is_told_by_us_what_kubectl_tells_it(api, home, tmp_path, informed, more):
    folder = tmp_path / "tools"
    user = by_command(program(folder, credential(token=api.token)), provideClusterInfo=informed)
    place = {"server": api.url, "certificate-authority-data": encoded(api.authority.pem)}
    config = api.kubeconfig(cluster=place | more, **user)
    kubectl(home, "get", "--raw", "/version", KUBECONFIG=config)
    cluster = Cluster.from_env({"KUBECONFIG": str(config)}, NAMESPACE)
    cluster.get("services", "runner")
    cluster.close()
    kubectls, ours = told(folder)
    assert ours == kubectls


def test_a_command_has_the_arguments_and_variables_that_the_kubeconfig_gives_it(api, tmp_path):
    tool = tmp_path / "tool"
    tool.write_text("""#!/bin/sh\necho "$1" | sed s/TOKEN/"$THE_TOKEN"/\n""")
    tool.chmod(0o755)
    user = by_command(
        tool,
        args=[json.dumps(credential(token="TOKEN"))],
        env=[{"name": "THE_TOKEN", "value": api.token}],
    )
    cluster = Cluster.from_env({"KUBECONFIG": str(api.kubeconfig(**user))}, NAMESPACE)
    assert cluster.get("services", "runner")
    cluster.close()


def test_a_command_does_not_see_the_secrets_of_the_gateway(api, tmp_path):
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\nenv >&2\nenv | grep RUNNER_ >&2\n")
    tool.chmod(0o755)
    config = api.kubeconfig(**by_command(tool))
    env = {"KUBECONFIG": str(config), "RUNNER_SERVICE_TOKEN": "secret-of-ours"}
    with pytest.raises(ClusterError, match="status 1") as failed:
        Cluster.from_env(env, NAMESPACE).get("services", "runner")
    assert "secret-of-ours" not in str(failed.value)


BAD_PROGRAMS = {
    "says no JSON": ("no", "cannot be used"),
    "says it in another version": (credential(token="t") | {"apiVersion": "x"}, "no ExecCred"),
    "gives nothing": (credential(), "neither a token nor a certificate"),
    "gives a certificate without a key": (credential(clientCertificateData="c"), "clientKeyData"),
    "gives what is no token": (credential(token="a b"), "no token"),
}


@pytest.mark.parametrize(("content", "message"), BAD_PROGRAMS.values(), ids=BAD_PROGRAMS)
def test_a_command_that(with_command, content, message):
    cluster, _ = with_command(content)
    with pytest.raises(ClusterError, match=message) as failed:
        cluster.get("services", "runner")
    assert failed.value.kind == "unauthorized"


def test_a_command_that_fails_is_quoted(api, tmp_path):
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho 'sign in with: cloud login' >&2\nexit 3\n")
    tool.chmod(0o755)
    config = api.kubeconfig(**by_command(tool))
    with pytest.raises(ClusterError, match="status 3: sign in with: cloud login"):
        Cluster.from_env({"KUBECONFIG": str(config)}).get("services", "runner")


def test_a_command_that_is_not_installed_says_how_to_install_it(api):
    config = api.kubeconfig(**by_command("no-such-tool", installHint="apt-get install cloud"))
    with pytest.raises(ClusterError, match=r"no-such-tool .*apt-get install cloud"):
        Cluster.from_env({"KUBECONFIG": str(config)}).get("services", "runner")


def test_what_a_command_says_steers_no_terminal(api, tmp_path):
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\nprintf 'bad \\033]0;title\\007\\302\\2332J' >&2\nexit 3\n")
    tool.chmod(0o755)
    config = api.kubeconfig(**by_command(tool))
    with pytest.raises(ClusterError) as raised:
        Cluster.from_env({"KUBECONFIG": str(config)}).get("services", "runner")
    assert "title" in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_asks_the_command_that_its_parent_was_asking(api, with_command):
    cluster, _ = with_command(credential(token=api.token))
    credentials = cluster._access.credentials
    credentials._lock.acquire()  # as a thread that the child does not have would
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        os._exit(0 if cluster.get("services", "runner") else 1)
    credentials._lock.release()
    assert os.waitpid(child, 0)[1] == 0
