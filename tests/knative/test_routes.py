"""Where to connect, which Host to send and whom to trust are three things, each set by itself."""

import pytest
from authority import Authority
from envoy import envoy
from knative_double import double
from knative_site import KnativeSite

HOST = "runner.default.svc.cluster.local"
PUBLIC = "runner.apps.test"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def plain(folder):
    """An ingress that knows one host."""
    with double(folder / "home", hosts={HOST}) as made:
        yield made


@pytest.fixture(scope="module")
def secure(folder, authority):
    """One that speaks TLS in the name of a public host, and finds the service by another."""
    made = double(folder / "home", hosts={HOST}, tls=authority.server(PUBLIC))
    with made as knative:
        yield knative


def tried(folder, url, method="POST", **env):
    """What a caller gets where the gateway is set up so."""
    named = {f"RUNNER_KNATIVE_{name}": str(value) for name, value in env.items()}
    with KnativeSite(folder, url, env=named) as site:
        answer = site.call(method, body=b"hello" if method == "POST" else b"")
        return (answer.status, None if answer.status == 200 else answer.code)


def test_the_name_finds_the_service_wherever_the_connection_goes(folder, plain):
    door = f"127.0.0.1:{plain.ingress.port}"
    assert tried(folder, f"http://{HOST}", CONNECT_TO=door) == (200, None)
    assert tried(folder, f"http://{HOST}:{plain.ingress.port}", CONNECT_TO="127.0.0.1")[0] == 200
    assert tried(folder, plain.url, HOST=HOST) == (200, None)
    assert {headers["Host"].partition(":")[0] for *_, headers in plain.ingress.seen} == {HOST}


@pytest.mark.parametrize("name", ["runner", "127.0.0.1", "other.default.svc.cluster.local"])
def test_a_host_that_the_ingress_does_not_know_is_no_way_there(folder, plain, name):
    assert tried(folder, plain.url, HOST=name) == (502, "backend-unreachable")


def test_the_same_way_is_gone_for_files(folder, plain):
    env = {"RUNNER_KNATIVE_HOST": HOST}
    with KnativeSite(folder, plain.url, env=env) as site:
        assert site.file("app.js").body == b"console.log(1)"
    with KnativeSite(folder, plain.url) as site:
        assert site.file("app.js").code == "backend-unreachable"


def test_tls_verifies_the_urls_own_name_and_the_ingress_finds_another(folder, secure, authority):
    env = {"CONNECT_TO": f"127.0.0.1:{secure.ingress.port}", "HOST": HOST}
    assert tried(folder, f"https://{PUBLIC}", CA_FILE=authority.file, **env) == (200, None)


def test_who_is_not_the_one_in_the_url_is_not_trusted(folder, secure, authority):
    env = {"CONNECT_TO": f"127.0.0.1:{secure.ingress.port}", "HOST": HOST}
    before = secure.ingress.arrived
    refused = (502, "backend-unreachable")
    assert tried(folder, f"https://{HOST}", CA_FILE=authority.file, **env) == refused
    assert tried(folder, f"https://{PUBLIC}", **env) == refused
    assert secure.ingress.arrived == before


def test_an_envoy_takes_who_names_the_service_before_the_request(folder, plain, authority):
    pair = folder / "pair.pem"
    pair.write_bytes(b"".join(authority.issue(PUBLIC, "127.0.0.1")))
    with envoy("kourier", plain.pods[0].url, host=PUBLIC, certificate=pair) as ingress:
        door = {"CONNECT_TO": ingress.address, "CA_FILE": authority.file}
        assert tried(folder, f"https://{PUBLIC}", **door) == (200, None)
        # The Host alone does not help: by then it has hung up.
        nameless = tried(folder, f"https://{ingress.address}", HOST=PUBLIC, CA_FILE=authority.file)
        assert nameless == (502, "backend-unreachable")


def test_a_tag_goes_along_with_every_call(folder, plain):
    before = len(plain.ingress.seen)
    assert tried(folder, plain.url, HOST=HOST, TAG="canary")[0] == 200
    sent = [headers for *_, headers in plain.ingress.seen[before:]]
    assert {headers.get("Knative-Serving-Tag") for headers in sent} == {"canary"}
