"""What platforms say in a runner's place: Knative's own programs, and the Envoys before them."""

from dataclasses import dataclass

from hops import PLAIN

REVISION = "runner-00001"
ENVOY = (("content-type", "text/plain"), ("server", "envoy"))
NAKED = (("server", "envoy"),)
FULL = "pending request queue full\n"
BROKE = "upstream connect error or disconnect/reset before headers. reset reason: "


@dataclass(frozen=True)
class Row:
    """A platform's answer: its status (None: the connection ends), its text, its headers.

    `ran` is what it says of the runner: it executed nothing (`no`), or nobody knows (`unknown`).
    """

    status: int | None
    text: str = ""
    fields: tuple = PLAIN
    ran: str = "no"


# Who says what, by the program that says it and the moment.
ROWS = {
    "activator: taken for a kubelet's probe": Row(200, fields=()),
    "a probe: the answer of a queue-proxy": Row(200, "queue"),
    "a probe: the answer of an activator": Row(200, "activator"),
    "a probe: the hash and nothing else": Row(200, fields=(("K-Network-Hash", "x"),)),
    "a time-out in the middle of an answer": Row(
        200, '{"status":200,"headers":{},"body_b64":"request timeout', PLAIN, "unknown"
    ),
    "a probe: not of this kind": Row(400, "unexpected probe header value: \n"),
    "a probe: without a hash": Row(
        400, 'a probe request must contain a non-empty "K-Network-Hash" header\n'
    ),
    "ingress: no such host": Row(404, fields=NAKED),
    "activator: no such revision": Row(
        404,
        f'Error getting active endpoint: revision.serving.knative.dev "{REVISION}" not found\n',
    ),
    "ingress: moved to https": Row(301, fields=(*NAKED, ("location", "https://runner.test/"))),
    "ingress: moved for good": Row(308, fields=(*NAKED, ("location", "https://runner.test/"))),
    "a body too large": Row(413, "Payload Too Large", ENVOY),
    "Envoy: headers too large": Row(431, "Request Header Fields Too Large", ENVOY),
    "Go: headers too large": Row(431, "431 Request Header Fields Too Large"),
    "activator: an error of its own": Row(500, "", (), "unknown"),
    "queue-proxy: nobody listens": Row(
        502, "dial tcp 127.0.0.1:8080: connect: connection refused\n"
    ),
    "activator: no way to the pod": Row(502, "timed out dialing 10.42.0.17:8012 after 10.00s\n"),
    "queue-proxy: the container ended": Row(502, "EOF\n", PLAIN, "unknown"),
    "queue-proxy: the container broke off": Row(
        502,
        "read tcp 127.0.0.1:35502->127.0.0.1:8080: read: connection reset by peer\n",
        PLAIN,
        "unknown",
    ),
    "queue-proxy: the container spoke no HTTP": Row(
        502,
        'net/http: HTTP/1.x transport connection broken: malformed HTTP response "nonsense"\n',
        PLAIN,
        "unknown",
    ),
    "queue-proxy: full": Row(503, FULL),
    "Envoy: nobody is well": Row(503, "no healthy upstream", ENVOY),
    "Envoy: no connection": Row(503, f"{BROKE}remote connection failure", ENVOY),
    "Envoy: no connection, older": Row(503, f"{BROKE}connection failure", ENVOY),
    "Envoy: no connection in time": Row(503, f"{BROKE}connection timeout", ENVOY),
    "Envoy: too many at once": Row(503, f"{BROKE}overflow", ENVOY),
    "Envoy: the connection ended": Row(503, f"{BROKE}connection termination", ENVOY, "unknown"),
    "Contour: ended again and again": Row(
        503,
        "upstream connect error or disconnect/reset before headers. "
        "retried and the latest reset reason: connection termination",
        ENVOY,
        "unknown",
    ),
    "queue-proxy: out of time": Row(504, "request timeout", PLAIN[:1], "unknown"),
    "activator: out of time": Row(504, "activator request timeout", PLAIN[:1], "unknown"),
    "Envoy: out of time": Row(504, "upstream request timeout", ENVOY, "unknown"),
    "no answer at all": Row(None, ran="unknown"),
    "a status nobody knows": Row(502, "something new\n", PLAIN, "unknown"),
}
