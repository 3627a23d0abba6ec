"""A Kubernetes API with Knative installed, over TLS, of the tests' own; kubectl judges it.

Example::

    with kube_api(tmp_path) as api:
        api.put(ksvc("runner", url="http://runner.extensions.svc.cluster.local"))
        api.put(revision("runner-00001", conditions={"Active": ("False", "NoTraffic")}))
        env = {"KUBECONFIG": str(api.kubeconfig())}

What a test may do with it while it runs:

- ``put(object)`` and ``remove(kind, name)``: what is in the cluster; ``kind`` in the plural, such
  as ``services``. Objects are built by ``ksvc()`` and ``revision()`` of `knative_objects.py`.
- ``token``: the bearer token that is valid; ``rotate()`` makes another and ends the last.
- ``forbid("services")``, ``permit("services")``: RBAC of every user but ``system:masters``' own,
  who come with a client certificate (``client_certificate()``).
- ``installed = False``: a cluster without Knative. ``refuse(429, retry_after=1, times=2)``: the
  next requests are turned away; ``refuse(503)``, ``refuse(500)`` likewise. ``delay``: seconds
  that each answer takes.
- ``requests``: of each request so far :class:`Request`: method, path, user, token's validity.
- ``stop()`` and ``start()``: the API is gone, and comes back on the same port.
- ``kubeconfig(path=…, **user)``: a file that leads here, by token unless ``user`` says how.
- ``service_account(folder)``: the three files that a pod finds; gives back the environment of
  the pod. ``authority``: who signed the server's certificate (``127.0.0.1`` and ``kube.test``).
"""

import base64
import json
import secrets
import ssl
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from socket import SHUT_RDWR
from urllib.parse import parse_qsl, urlsplit

from authority import Authority
from knative_objects import NAMESPACE, SERVING

USER = f"system:serviceaccount:{NAMESPACE}:gateway"
ANONYMOUS = "system:anonymous"


@dataclass(frozen=True)
class Column:
    """A column that `kubectl get` prints: its heading, and how it is read from an object."""

    name: str
    read: object
    type: str = "string"


def _condition(field):
    def read(item):
        found = item.get("status", {}).get("conditions", [])
        return next((one.get(field, "") for one in found if one["type"] == "Ready"), "")

    return read


def _status(field):
    return lambda item: item.get("status", {}).get(field, "")


READINESS = (Column("Ready", _condition("status")), Column("Reason", _condition("reason")))
# Plural, kind, short names, versions, columns: as Knative's definitions have them.
RESOURCES = {
    "services": (
        "Service",
        ("kservice", "ksvc"),
        ("v1",),
        (
            Column("URL", _status("url")),
            Column("LatestCreated", _status("latestCreatedRevisionName")),
            Column("LatestReady", _status("latestReadyRevisionName")),
            *READINESS,
        ),
    ),
    "revisions": (
        "Revision",
        ("rev",),
        ("v1",),
        (
            Column(
                "Config Name",
                lambda item: item["metadata"]["labels"].get(f"{SERVING}/configuration", ""),
            ),
            Column(
                "Generation",
                lambda item: item["metadata"]["labels"].get(
                    f"{SERVING}/configurationGeneration", ""
                ),
            ),
            *READINESS,
            Column("Actual Replicas", _status("actualReplicas"), "integer"),
            Column("Desired Replicas", _status("desiredReplicas"), "integer"),
        ),
    ),
    "domainmappings": (
        "DomainMapping",
        ("dm",),
        ("v1beta1",),
        (Column("URL", _status("url")), *READINESS),
    ),
}


@dataclass(frozen=True)
class Request:
    """One request that came: ``user`` is None where the credentials were not valid."""

    method: str
    path: str
    user: str | None
    headers: dict


class KubeApi:
    """What is in the cluster, who may see it, and who asked; see the module."""

    def __init__(self, folder, authority=None):
        self.folder = folder
        self.authority = authority or Authority(folder)
        self.installed = True
        self.delay = 0.0
        self.requests = []
        self._objects = {}
        self._forbidden = set()
        self._refusals = deque()
        self._versions = count(2)
        self._server = None
        self._port = 0
        self.rotate()

    def put(self, item):
        """Create or replace an object; its resource version is a new one."""
        kind = next(name for name, facts in RESOURCES.items() if facts[0] == item["kind"])
        meta = item["metadata"]
        item = item | {"metadata": meta | {"resourceVersion": str(next(self._versions))}}
        self._objects[kind, meta["namespace"], meta["name"]] = item
        return item

    def remove(self, kind, name, namespace=NAMESPACE):
        del self._objects[kind, namespace, name]

    def rotate(self):
        """End the token; the new one."""
        self.token = f"token-{secrets.token_hex(16)}"
        return self.token

    def forbid(self, *kinds):
        self._forbidden.update(kinds)

    def permit(self, *kinds):
        self._forbidden.difference_update(kinds)

    def refuse(self, status, *, retry_after=None, times=1):
        self._refusals.extend([(status, retry_after)] * times)

    # How one comes here

    @property
    def url(self):
        return f"https://127.0.0.1:{self._port}"

    def kubeconfig(self, path=None, *, namespace=None, cluster=None, **user):
        """A kubeconfig whose only context leads here; *user* and *cluster* replace what it says."""
        path = path or self.folder / "kubeconfig"
        place = {"server": self.url, "certificate-authority-data": encoded(self.authority.pem)}
        context = {"cluster": "test", "user": "gateway", "namespace": namespace}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": place if cluster is None else cluster}],
            "contexts": [
                {"name": "test", "context": {k: v for k, v in context.items() if v is not None}}
            ],
            "users": [{"name": "gateway", "user": user or {"token": self.token}}],
        }
        path.write_text(json.dumps(content))
        path.chmod(0o600)
        return path

    def service_account(self, folder=None):
        """Write what a pod finds in its service account's folder; the pod's environment."""
        folder = folder or self.folder / "serviceaccount"
        folder.mkdir(exist_ok=True)
        (folder / "token").write_text(self.token)
        (folder / "ca.crt").write_bytes(self.authority.pem)
        (folder / "namespace").write_text(NAMESPACE)
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self._port),
        }

    def client_certificate(self, user="system:admin"):
        """A client's certificate and its key, as PEM; such a user may read everything."""
        return self.authority.issue(user=user)

    # The server

    def start(self):
        context = self.authority.server("127.0.0.1", "kube.test")
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(self.authority.file)
        self._server = _TlsServer(("127.0.0.1", self._port), self, context)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # What it answers

    def answer(self, request, query, accept):
        """Status, headers and body of the answer to a request."""
        if request.user is None:
            return 401, {}, failure(401, "Unauthorized", "Unauthorized")
        if self._refusals:
            return refusal(*self._refusals.popleft())
        parts = request.path.strip("/").split("/")
        if request.method != "GET":
            text = "the server does not allow this method on the requested resource"
            return 405, {}, failure(405, "MethodNotAllowed", text)
        if known := self._discovery(request.path.rstrip("/")):
            return 200, {}, known
        if parts[:3] == ["api", "v1", "namespaces"] and len(parts) == 4:
            return (
                200,
                {},
                {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": parts[3]}},
            )
        if not self.installed or len(parts) < 4 or parts[:2] != ["apis", SERVING]:
            return not_found()
        return self._resource(request, parts[2], parts[3:], query, accept)

    def _discovery(self, path):
        served = {
            "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0", "platform": "test"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/api/v1": resource_list("v1", {"namespaces": ("Namespace", ("ns",))}),
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": self._groups()},
        }
        if self.installed:
            for version in ("v1", "v1beta1"):
                group = f"{SERVING}/{version}"
                kinds = {name: facts for name, facts in RESOURCES.items() if version in facts[2]}
                served[f"/apis/{group}"] = resource_list(group, kinds)
            served[f"/apis/{SERVING}"] = {
                "kind": "APIGroup",
                "apiVersion": "v1",
                **self._groups()[0],
            }
        return served.get(path)

    def _groups(self):
        if not self.installed:
            return []
        versions = [
            {"groupVersion": f"{SERVING}/{version}", "version": version}
            for version in ("v1", "v1beta1")
        ]
        return [{"name": SERVING, "versions": versions, "preferredVersion": versions[0]}]

    def _resource(self, request, version, rest, query, accept):
        namespace = None
        if rest[0] == "namespaces":
            namespace, rest = "".join(rest[1:2]), rest[2:]
        kind, name = (*rest, None, None)[:2]
        if kind not in RESOURCES or version not in RESOURCES[kind][2] or len(rest) > 2:
            return not_found()
        verb = "watch" if query.get("watch") in ("1", "true") else "get" if name else "list"
        if request.user == ANONYMOUS or (request.user == USER and kind in self._forbidden):
            return 403, {}, forbidden(request.user, verb, kind, namespace, name)
        if verb == "watch":
            return 410, {}, failure(410, "Expired", "too old resource version: 1 (2)")
        found = self._found(kind, namespace, name, query.get("labelSelector", ""))
        if name and not found:
            text = f'{kind}.{SERVING} "{name}" not found'
            details = {"name": name, "group": SERVING, "kind": kind}
            return 404, {}, failure(404, "NotFound", text, details)
        if "as=Table" in accept:
            return 200, {}, table(kind, found)
        if name:
            return 200, {}, found[0]
        return 200, {}, listing(f"{RESOURCES[kind][0]}List", f"{SERVING}/{version}", items=found)

    def _found(self, kind, namespace, name, selector):
        wanted = dict(pair.split("=", 1) for pair in selector.split(",") if pair)
        return [
            item
            for (its_kind, its_namespace, its_name), item in sorted(self._objects.items())
            if (its_kind, its_namespace) == (kind, namespace or its_namespace)
            and name in (None, its_name)
            and wanted.items() <= item["metadata"].get("labels", {}).items()
        ]

    def user_of(self, authorization, certificate):
        """Who asks; None where what they show is not valid."""
        if authorization is not None:
            return USER if authorization == f"Bearer {self.token}" else None
        if certificate:
            subject = dict(pair for part in certificate["subject"] for pair in part)
            return subject["commonName"]
        return ANONYMOUS


def encoded(data):
    """Base64, as the ``-data`` fields of a kubeconfig have it."""
    return base64.b64encode(data).decode()


def failure(code, reason, message, details=None):
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    } | ({"details": details} if details else {})


def forbidden(user, verb, kind, namespace, name):
    what = f'{kind}.{SERVING} "{name}"' if name else f"{kind}.{SERVING}"
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    text = (
        f'{what} is forbidden: User "{user}" cannot {verb} resource "{kind}" '
        f'in API group "{SERVING}" {where}'
    )
    details = {"group": SERVING, "kind": kind} | ({"name": name} if name else {})
    return failure(403, "Forbidden", text, details)


def not_found():
    # What nobody serves is told in plain text, without a Status.
    return 404, {"Content-Type": "text/plain; charset=utf-8"}, b"404 page not found\n"


def refusal(status, retry_after):
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    if status == 429:
        text = b"Too many requests, please try again later.\n"
        return status, headers | {"Content-Type": "text/plain; charset=utf-8"}, text
    reason = {500: "InternalError", 503: "ServiceUnavailable"}.get(status, "Unknown")
    return status, headers, failure(status, reason, "the server is currently unable to answer")


def resource_list(group, kinds):
    resources = [
        {
            "name": name,
            "singularName": facts[0].lower(),
            "namespaced": name != "namespaces",
            "kind": facts[0],
            "verbs": ["get", "list", "watch"],
            "shortNames": facts[1],
        }
        for name, facts in kinds.items()
    ]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group,
        "resources": resources,
    }


def listing(kind, group, **fields):
    return {"kind": kind, "apiVersion": group, "metadata": {"resourceVersion": "1"}} | fields


def table(kind, items):
    """What `kubectl get` asks for: rows and columns, printed by the server."""
    columns = [
        Column("Name", lambda item: item["metadata"]["name"]),
        *RESOURCES[kind][3],
    ]
    heads = [
        {"name": column.name, "type": column.type, "format": "", "description": "", "priority": 0}
        for column in columns
    ]
    rows = [
        {
            "cells": [column.read(item) for column in columns],
            "object": {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": item["metadata"],
            },
        }
        for item in items
    ]
    return listing("Table", "meta.k8s.io/v1", columnDefinitions=heads, rows=rows)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "kube", ""

    def do_GET(self):
        api = self.server.api
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        target = urlsplit(self.path)
        user = api.user_of(self.headers["Authorization"], self.connection.getpeercert())
        request = Request(self.command, target.path, user, dict(self.headers))
        api.requests.append(request)
        accept = self.headers["Accept"] or ""
        time.sleep(api.delay)
        self._send(*api.answer(request, dict(parse_qsl(target.query)), accept))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _send(self, status, headers, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.send_header("Audit-Id", secrets.token_hex(8))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


class _TlsServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, api, context):
        self.api = api
        self._context = context
        self._open = set()
        super().__init__(address, _Handler)

    def get_request(self):
        sock, address = super().get_request()
        # The handshake is the handler's: a client that is silent stops nobody else.
        secured = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._open.add(secured)
        return secured, address

    def shutdown_request(self, request):
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        """Nothing: who distrusts the certificate, or goes away, is part of the tests."""

    def server_close(self):
        super().server_close()
        for sock in tuple(self._open):
            with suppress(OSError):
                sock.shutdown(SHUT_RDWR)


@contextmanager
def kube_api(folder, authority=None):
    """Run a :class:`KubeApi` until the block ends; its files are below *folder*."""
    api = KubeApi(folder, authority)
    api.start()
    try:
        yield api
    finally:
        api.stop()
