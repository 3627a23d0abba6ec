"""`runnerwsgi knative manifest`: complete, hardened, and nothing that Knative would not take."""

import json
from ipaddress import ip_address, ip_network

import pytest
import yaml
from cloudcoil.models.knative_serving.serving import v1 as serving
from cloudcoil.models.knative_serving.serving import v1beta1 as mappings
from cloudcoil.models.kubernetes.core import v1 as core
from cloudcoil.models.kubernetes.networking import v1 as networking
from cloudcoil.models.kubernetes.rbac import v1 as rbac
from knative_cli import GATEWAY, IMAGE, TOKEN, container, documents, knative, manifest, service

from runnerwsgi import Settings

S3 = {
    "RUNNER_BUNDLE_STORE": "s3://bundles/runner",
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
    "AWS_REGION": "eu-west-1",
}
VARIANTS = [
    pytest.param((), {}, id="as little as can be said"),
    pytest.param(("--min-scale", "0"), S3, id="scaled to zero, bundles in S3"),
    pytest.param(
        ("--secret", "vault"), {"RUNNER_SERVICE_TOKEN": None}, id="a Secret from elsewhere"
    ),
    pytest.param(("--domain", "r.example.com", "--tls-secret", "tls"), {}, id="published"),
    pytest.param(
        ("--max-scale", "1"), {"RUNNER_IDEMPOTENCY_URL": None}, id="one pod, keys in its memory"
    ),
    pytest.param(("--pull-secret", "registry"), {}, id="an image that not everybody may pull"),
    pytest.param((), {"RUNNER_TIMEOUT_MS": "570000"}, id="as long as Knative waits"),
    pytest.param(
        ("--service", "a/b", "--concurrency", "1000", "--memory", "512", "--cpu", "0.1"),
        {"RUNNER_EGRESS_ALLOW": "https://*.example.com", "RUNNER_LOG_LEVEL": "debug"},
        id="another name, and limits",
    ),
]


# Of ClusterDomainClaim there is none.
MODELS = {
    "ServiceAccount": core.ServiceAccount,
    "Secret": core.Secret,
    "Role": rbac.Role,
    "RoleBinding": rbac.RoleBinding,
    "NetworkPolicy": networking.NetworkPolicy,
    "Service": serving.Service,
    "DomainMapping": mappings.DomainMapping,
}


@pytest.mark.parametrize(("args", "env"), VARIANTS)
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["YAML", "JSON"])
def test_the_linter_has_nothing_to_say(args, env, form):
    done = knative("lint", "-", stdin=manifest(*args, *form, **env))
    assert done.exit_code == 0, done.output
    assert all(line.endswith(": 0 remarks") for line in done.stdout.splitlines())


@pytest.mark.parametrize(("args", "env"), VARIANTS)
def test_yaml_and_json_say_the_same(args, env):
    listed = json.loads(manifest("--json", *args, **env))["items"]
    assert list(yaml.safe_load_all(manifest(*args, **env))) == listed


@pytest.mark.parametrize(("args", "env"), VARIANTS)
def test_a_schema_that_somebody_else_made_knows_every_field(args, env):
    for document in documents(*args, **env).values():
        if model := MODELS.get(document["kind"]):
            read = model.model_validate(document)
            kept = json.loads(read.model_dump_json(by_alias=True, exclude_unset=True))
            assert kept == document


def test_it_needs_no_address_of_a_runner_and_no_backend():
    assert "RUNNER_BASE_URL" not in GATEWAY
    assert knative("manifest", "--help").exit_code == 0


def test_everything_is_made_in_the_order_in_which_it_is_needed():
    assert list(documents("--domain", "r.example.com")) == [
        "ServiceAccount runner",
        "Secret runner-secrets",
        "ServiceAccount runner-gateway",
        "Role runner-gateway",
        "RoleBinding runner-gateway",
        "NetworkPolicy runner",
        "Service runner",
        "ClusterDomainClaim r.example.com",
        "DomainMapping r.example.com",
    ]


def test_everything_is_in_the_namespace_of_the_service():
    base = "https://shop.example.com"
    found = documents(RUNNER_KNATIVE_SERVICE="apps/guests", RUNNER_CALLBACK_BASE=base)
    assert {item["metadata"]["namespace"] for item in found.values()} == {"apps"}
    assert "Service guests" in found


def test_the_container_is_hardened():
    assert container()["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    pod = service()["spec"]["template"]["spec"]
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)


def test_secrets_are_in_the_secret_alone():
    found = documents(**S3)
    data = found.pop("Secret runner-secrets")["stringData"]
    assert data == {
        "token": TOKEN,
        "RUNNER_IDEMPOTENCY_URL": GATEWAY["RUNNER_IDEMPOTENCY_URL"],
        "AWS_ACCESS_KEY_ID": S3["AWS_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": S3["AWS_SECRET_ACCESS_KEY"],
    }
    assert not [value for value in data.values() if value in json.dumps(found)]
    refs = {
        e["name"]: e["valueFrom"]["secretKeyRef"]
        for e in container(**S3)["env"]
        if "valueFrom" in e
    }
    assert refs == {n: {"name": "runner-secrets", "key": n} for n in data if n != "token"}


def test_a_secret_from_elsewhere_is_used_and_its_keys_are_told():
    done = knative("manifest", "--image", IMAGE, "--secret", "vault", **GATEWAY)
    assert (TOKEN in done.stdout, "password" in done.stdout) == (False, False)
    assert "The Secret vault needs the keys RUNNER_IDEMPOTENCY_URL, token." in done.stderr
    assert "kind: Secret\n" not in done.stdout


def test_the_token_is_read_from_the_file_that_the_gateway_reads(tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    env = {"RUNNER_SERVICE_TOKEN": None, "RUNNER_SERVICE_TOKEN_FILE": str(tmp_path / "token")}
    assert documents(**env)["Secret runner-secrets"]["stringData"]["token"] == TOKEN


def variables(*args, **env):
    return {each["name"]: each.get("value") for each in container(*args, **env)["env"]}


@pytest.mark.parametrize("calls", [1, 4, 50])
def test_a_pod_has_a_thread_for_each_call_that_it_gets(calls):
    args = ("--concurrency", calls)
    assert service(*args)["spec"]["template"]["spec"]["containerConcurrency"] == calls
    # The path of the token is the pod's.
    env = {**variables(*args), "RUNNER_SERVICE_TOKEN_FILE": ""}
    settings = Settings.from_env({name: value for name, value in env.items() if value})
    assert (settings.slots, settings.slots_per_extension) == (calls, calls)


@pytest.mark.parametrize(
    ("deadline", "limit"),
    [
        pytest.param("100", 91, id="the shortest"),
        pytest.param("30000", 120, id="the usual"),
        pytest.param("540001", 600, id="as long as there is time to end in"),
        pytest.param("570000", 600, id="the longest"),
    ],
)
def test_the_platform_waits_longer_than_the_gateway(deadline, limit):
    found = service(RUNNER_TIMEOUT_MS=deadline)["spec"]["template"]["spec"]
    assert found["timeoutSeconds"] == limit


def test_a_pod_has_memory_for_each_of_its_calls():
    assert container()["resources"]["limits"]["memory"] == "2048Mi"
    assert container(RUNNER_MEMORY_MB="512")["resources"]["limits"]["memory"] == "3072Mi"
    assert container("--memory", "700")["resources"]["limits"]["memory"] == "700Mi"


def test_limits_of_the_gateway_are_the_runners():
    given = {"RUNNER_MAX_BODY_BYTES": "1000", "RUNNER_PUBLIC_ORIGINS": "https://app.example.com"}
    found = variables(**given, RUNNER_THREADS="64", RUNNER_DATABASE_URL="sqlite://")
    assert given.items() <= found.items()
    assert (found["RUNNER_THREADS"], "RUNNER_DATABASE_URL" in found) == ("10", False)


def test_the_volume_holds_what_the_caches_may_grow_to():
    pod = service()["spec"]["template"]["spec"]
    limit = next(v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if v["name"] == "home")
    found = variables()
    caches = int(found["RUNNER_BUNDLE_CACHE_MB"]) + int(found["RUNNER_WASM_CACHE_MB"])
    assert int(limit.removesuffix("Mi")) > caches


# Who may be reached


def rules(*args, **env):
    policy = documents(*args, **env)["NetworkPolicy runner"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["podSelector"] == {"matchLabels": {"serving.knative.dev/service": "runner"}}
    return policy["egress"]


def pods(namespace, **labels):
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    return [peer | ({"podSelector": {"matchLabels": labels}} if labels else {})]


def at(*networks):
    return [{"ipBlock": {"cidr": network}} for network in networks]


PUBLIC = "public"


@pytest.mark.parametrize(
    ("args", "env", "peers", "port"),
    [
        pytest.param((), {}, pods("web"), 8000, id="the gateway's namespace"),
        pytest.param(
            ("--gateway-label", "app=shop", "--gateway-port", "3000"),
            {},
            pods("web", app="shop"),
            3000,
            id="the gateway's pods, and their port",
        ),
        pytest.param(
            (),
            {"RUNNER_CALLBACK_BASE": "http://shop:8000"},
            pods("extensions"),
            8000,
            id="a gateway in the runner's own namespace",
        ),
        pytest.param(
            (),
            {"RUNNER_CALLBACK_BASE": "https://10.1.2.3"},
            at("10.1.2.3/32"),
            443,
            id="a gateway at an address",
        ),
        pytest.param(
            (),
            {"RUNNER_CALLBACK_BASE": "https://shop.example.com"},
            PUBLIC,
            443,
            id="a gateway somewhere in public",
        ),
        pytest.param((), {}, pods("data"), 6379, id="the idempotency store"),
        pytest.param(
            ("--address", "db.example.com=10.9.0.0/24", "--address", "db.example.com=fd00::/64"),
            {"RUNNER_IDEMPOTENCY_URL": "postgresql+psycopg://u:p@db.example.com/runner"},
            at("10.9.0.0/24", "fd00::/64"),
            5432,
            id="a database whose addresses are told",
        ),
        pytest.param((), {}, PUBLIC, 443, id="a bundle store in public"),
        pytest.param((), S3, PUBLIC, 443, id="S3"),
        pytest.param(
            (),
            {**S3, "AWS_ENDPOINT_URL_S3": "http://minio.storage.svc:9000"},
            pods("storage"),
            9000,
            id="S3 of one's own",
        ),
        pytest.param(
            (),
            {"RUNNER_EGRESS_ALLOW": "https://api.example.com:8443"},
            PUBLIC,
            8443,
            id="what extensions may fetch",
        ),
        pytest.param(
            ("--dns", "openshift-dns:5353"), {}, pods("openshift-dns"), 5353, id="another DNS"
        ),
    ],
)
def test_the_runner_may_reach(args, env, peers, port):
    found = [r["to"] for r in rules(*args, **env) if port in [p["port"] for p in r["ports"]]]
    assert any(is_public(to) if peers == PUBLIC else to == peers for to in found), found


def is_public(peers):
    """Whether they are everywhere but the networks of clusters, nodes and clouds."""

    def reached(address):
        blocks = [peer.get("ipBlock", {"cidr": "::/128"}) for peer in peers]
        return any(
            ip_address(address) in ip_network(block["cidr"])
            and not any(ip_address(address) in ip_network(no) for no in block["except"])
            for block in blocks
            if "except" in block
        )

    near = (
        *("10.0.0.1", "172.20.0.1", "192.168.1.1", "169.254.169.254", "fd00::1", "fe80::1"),
        # Where providers put pods and services when those are used up, and ways to all of them.
        *("240.0.0.1", "198.18.0.1", "192.0.0.1", "100.100.100.200", "2002:a00:1::", "64:ff9b::1"),
    )
    return reached("8.8.8.8") and reached("2606:4700::1111") and not any(map(reached, near))


def test_the_runner_may_reach_nothing_else():
    assert [rule["to"] for rule in rules()][:2] == [pods("kube-system"), pods("web")]
    assert len(rules()) == 4
    assert len(rules("--max-scale", "1", RUNNER_IDEMPOTENCY_URL="memory:")) == 3


def test_nobody_gets_past_queue_proxy():
    policy = documents()["NetworkPolicy runner"]["spec"]
    opened = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert 8080 not in opened
    assert {8012, 8013} <= opened


# Who may ask


def test_a_gateway_may_read_the_service_and_its_revisions():
    role = documents()["Role runner-gateway"]
    group = {"apiGroups": ["serving.knative.dev"], "verbs": ["get"]}
    assert role["rules"] == [
        {**group, "resources": ["services"], "resourceNames": ["runner"]},
        {**group, "resources": ["revisions"]},
    ]


@pytest.mark.parametrize(
    ("args", "base", "account"),
    [
        pytest.param((), "http://shop.web.svc:8000", ("web", "runner-gateway"), id="one beside it"),
        pytest.param(
            (), "http://shop:8000", ("extensions", "runner-gateway"), id="one beside the runner"
        ),
        pytest.param(
            (),
            "https://shop.example.com",
            ("extensions", "runner-gateway"),
            id="one of the runner's namespace, where nobody knows the gateway's",
        ),
        pytest.param(
            ("--gateway-account", "web/shop"),
            "http://shop.web.svc:8000",
            ("web", "shop"),
            id="the gateway's own",
        ),
    ],
)
def test_the_role_is_given_to(args, base, account):
    found = documents(*args, RUNNER_CALLBACK_BASE=base)
    binding = found["RoleBinding runner-gateway"]
    namespace, name = account
    assert binding["subjects"] == [{"kind": "ServiceAccount", "namespace": namespace, "name": name}]
    made = found.get(f"ServiceAccount {name}")
    assert bool(made) == (name == "runner-gateway")
    # A pod can be an account of its own namespace only.
    assert made is None or made["metadata"]["namespace"] == namespace


# What is missing


def test_everything_that_is_missing_is_told_together():
    done = knative("manifest", "--image", IMAGE)
    assert done.exit_code == 1
    assert done.stdout == ""
    told = done.stderr.splitlines()
    for line, name in zip(
        told,
        (
            "No service token",
            "RUNNER_CALLBACK_BASE",
            "RUNNER_BUNDLE_STORE",
            "RUNNER_IDEMPOTENCY_URL",
        ),
        strict=True,
    ):
        assert line.startswith(f"error: {name} is")


@pytest.mark.parametrize(
    ("args", "env", "words"),
    [
        pytest.param(
            (),
            {"RUNNER_CALLBACK_BASE": "unix:/run/runnerwsgi"},
            "not the address at which pods reach the gateway",
            id="sockets of another machine",
        ),
        pytest.param(
            (),
            {"RUNNER_BUNDLE_STORE": "/var/lib/bundles"},
            "a folder of this machine",
            id="bundles of another machine",
        ),
        pytest.param(
            (),
            {"RUNNER_IDEMPOTENCY_URL": "sqlite:////tmp/keys.db"},
            "which one pod alone sees",
            id="keys in a file of one pod",
        ),
        pytest.param(
            (),
            {"RUNNER_IDEMPOTENCY_URL": "memory:"},
            "--max-scale 1",
            id="keys in the memory of one of many pods",
        ),
        pytest.param(
            (),
            {"RUNNER_IDEMPOTENCY_URL": "redis:///0"},
            "names no host and port",
            id="a store without a host",
        ),
        pytest.param(
            (),
            {"RUNNER_BUNDLE_STORE": "https://me:CANARY@bundles.example.com/x"},
            "has a user or a query",
            id="a password where everybody reads it",
        ),
        pytest.param(
            (),
            {"RUNNER_BUNDLE_STORE": "s3://a/b", "AWS_ENDPOINT_URL": "https://h/?sig=CANARY"},
            "has a user or a query",
            id="a signature where everybody reads it",
        ),
        pytest.param(
            (),
            {"RUNNER_CALLBACK_BASE": "http://me:CANARY@shop.web.svc:8000"},
            "found 'http://***@shop.web.svc:8000'",
            id="a password in the gateway's address",
        ),
        pytest.param(
            (),
            {"RUNNER_TIMEOUT_MS": "570001"},
            "set it to 570000 at most",
            id="a deadline that Knative does not wait for",
        ),
        pytest.param(
            ("--address", "other.example.com=10.0.0.0/8"),
            {},
            "--address other.example.com: nothing",
            id="the address of nobody",
        ),
        pytest.param(
            (), {"RUNNER_THREADS": "many"}, "RUNNER_THREADS", id="a setting that is wrong"
        ),
    ],
)
def test_is_refused(args, env, words):
    done = knative("manifest", "--image", IMAGE, *args, **{**GATEWAY, **env})
    assert (done.exit_code, done.stdout) == (1, "")
    assert words in done.stderr
    assert "CANARY" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(("--service", "runner"), id="a Service without a namespace"),
        pytest.param(("--service", "a/1b"), id="a Service that begins with a digit"),
        pytest.param(("--service", f"a/{'b' * 64}"), id="a Service with a long name"),
        pytest.param(("--min-scale", "3", "--max-scale", "2"), id="fewer at most than at least"),
        pytest.param(("--tls-secret", "tls"), id="a certificate without a domain"),
        pytest.param(("--gateway-account", "shop"), id="an account without a namespace"),
        pytest.param(("--gateway-label", "shop"), id="a label without a value"),
        pytest.param(("--address", "a=10.0.0.1/8"), id="a network that is none"),
        pytest.param(("--dns", "kube-system"), id="a DNS without a port"),
        pytest.param(("--image", "a b"), id="an image with a blank"),
        pytest.param(("--memory", "100"), id="too little memory"),
    ],
)
def test_is_wrong_usage(args):
    done = knative("manifest", "--image", IMAGE, *args, **GATEWAY)
    assert (done.exit_code, done.stdout) == (2, "")


def test_whoever_gives_no_keys_is_told_to_give_a_role():
    env = {**GATEWAY, "RUNNER_BUNDLE_STORE": "s3://bundles"}
    done = knative("manifest", "--image", IMAGE, **env)
    assert "give the ServiceAccount extensions/runner a role" in done.stderr
    assert "AWS_" not in done.stdout


def test_the_gateways_part_is_told_beside_the_manifest():
    done = knative("manifest", "--image", IMAGE, **GATEWAY)
    assert "RUNNER_KNATIVE_SERVICE=extensions/runner" in done.stderr
    assert TOKEN not in done.stderr
