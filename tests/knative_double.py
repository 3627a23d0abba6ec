"""A double of Knative: what a caller meets between an ingress and a real runner.

    with double(home) as knative:            # one pod, reached through its queue-proxy
        knative.url                          # where callers go, whatever happens behind it
    with double(home, pods=0) as knative:    # scaled to zero: the first call starts a runner
        ...

As a process: `python tests/knative_double.py --home HOME [--pods 0] [--through-activator] …`
(its own --help); it says "Serving on URL" like any server, so `servers.serving` starts it.

`double(home, **settings)` takes

- `pods=1`: runners at the start; 0 is scaled to zero. Each is `servers.runner` of *home* with
  `env` (RUNNER_…), or whatever `start()` gives: a context manager of something with a `.url`.
- `through_activator=False`: the activator stays in the path although there are pods
  (target-burst-capacity -1). Without pods it always is.
- `concurrency=0`: containerConcurrency; 0 is no limit.
- `timeout`, `response_start`, `idle`: the revision's timers, in seconds; none by default.
- `queue_depth=10_000`: how many callers the activator holds, where there is a `concurrency`.
- `hosts=None`: the Hosts that the ingress knows, without ports; default: all.
- `tls=None`: a server's SSLContext for `url`. `port=0`: of `url`.
- `quiet=0.3`: seconds without a request after which a queue-proxy that drains closes (30).

and gives a `Double`:

- `url`, and the hops behind it, each with a `url` and the counters of `hops.Hop`
  (`arrived`, `forwarded`, `busy`, `peak`, `said`, `seen`): `ingress`, `activator`, and one
  `proxy` for each of `pods`. A real Envoy goes before `activator.url` or `pods[n].url`.
- `executed`: calls that a runner was given to their last byte, in all pods that ever were;
  `finished`: calls that the runners' own logs tell of.
- `started`: how many pods were started.
- `say(row, times=1, executed=False, path="/v1/execute")`: the next requests get a row of
  `platform_rows.ROWS`, the catalogue of what platforms say; with `executed` after a runner has
  executed them, and its answer is lost. `unsaid` is what nobody has asked for yet.
- `scale(n)`: that many pods, ready or gone when it returns; `drain(pod)` ends one gently;
  `pods[n].kill()` kills the runner, and its queue-proxy stays; `pods[n].restart()` is a new
  container in the pod; `kill_pods()` is for all. One that is killed stays in the path, as it
  does until Kubernetes has looked. `pods[n].freeze()` and `.thaw()`: a container that hangs.
- `hold`: while True no pod becomes ready. `activator.revision`: the name of the one it knows;
  another name than runner-00001, and the ingress asks for one that is gone.

Not here: HTTP/2, WebSocket, full duplex, 1xx, the autoscaler's own decisions, an activator that
ends. A queue-proxy says at once that its container is not ready, and does not try for 10 s.
"""

import argparse
import itertools
import math
import os
import random
import signal
import sys
import threading
import time
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, RemoteDisconnected
from urllib.parse import urlsplit

from hops import PLAIN, Clock, Gone, Hop, Lost
from platform_rows import FULL, REVISION, ROWS
from servers import runner

READINESS = "/health/readiness"
# What Knative sets in every container.
POD = {
    "PORT": "8080",
    "K_SERVICE": "runner",
    "K_CONFIGURATION": "runner",
    "K_REVISION": REVISION,
}


class GoHop(Hop):
    """A hop written in Go: what it says when the next hop fails it."""

    def fail(self, request, lost, url):
        """Say it, or end the connection where an answer has begun."""
        if lost.phase == "body":
            request.hang_up()
        else:
            self.say(request, 502, _go_text(lost, urlsplit(url).netloc) + "\n")


def _go_text(lost, place):
    if lost.phase == "connect":
        if isinstance(lost.reason, TimeoutError):
            return f"timed out dialing {place} after 10.00s"
        return f"dial tcp {place}: connect: connection refused"
    if isinstance(lost.reason, RemoteDisconnected):
        return "EOF"
    if isinstance(lost.reason, HTTPException):
        return f'net/http: HTTP/1.x transport connection broken: malformed HTTP response "{place}"'
    return f"read tcp 127.0.0.1:35502->{place}: read: connection reset by peer"


class QueueProxy(GoHop):
    """The proxy beside each container: probes, timers, and the breaker.

    Args:
        target: URL of the container; may be changed.
        concurrency: calls at once; ten times as many wait, one more is refused. 0: no limit.
        timeout: seconds from arrival to the end, the time in the queue included.
        response_start: seconds from arrival to the first byte.
        idle: seconds between two writes.
        quiet: seconds without a request after which one that drains closes.
        readiness: path that is asked whether the container is ready.
    """

    late = b"request timeout"

    def __init__(
        self,
        target,
        *,
        concurrency=0,
        timeout=math.inf,
        response_start=math.inf,
        idle=math.inf,
        quiet=0.3,
        readiness=READINESS,
        **options,
    ):
        super().__init__(**options)
        self.target, self.readiness, self.quiet = target, readiness, quiet
        self._timers = (timeout, response_start, idle)
        self._breaker = Breaker(concurrency, 10 * concurrency) if concurrency else None
        self._drains, self._last = threading.Event(), 0.0

    def answer(self, request):
        if _agent_is(request, "kube-probe/", "Knative-Activator-", "Knative-Autoscaling-"):
            self._say_readiness(request)
        elif request.get("K-Network-Probe") == "probe":
            self._say_probed(request)
        else:
            self._last = time.monotonic()
            self._serve(request)

    def drain(self):
        """End as on SIGTERM: serve until nobody has come for a while, then close."""
        self._drains.set()
        self._last = time.monotonic()
        while (left := self._last + self.quiet - time.monotonic()) > 0:
            time.sleep(left)
        self.shut()
        while self.busy:
            time.sleep(0.01)
        self.close()

    def is_ready(self):
        """Whether the container says so."""
        return _status(self.target + self.readiness, 0.5) == 200

    def _say_readiness(self, request):
        value = request.get("K-Network-Probe")
        if self._drains.is_set():
            self.say(request, 503, "shutting down\n")
        elif value != "queue":
            self.say(request, 400, f"unexpected probe header value: {value}\n")
        elif self.is_ready():
            self.say(request, 200, "queue", PLAIN[:1])
        else:
            self.say(request, 503, fields=())

    def _say_probed(self, request):
        if self._drains.is_set():
            self.say(request, 503, "shutting down\n")
        else:
            _echo(self, request)

    def _serve(self, request):
        clock = Clock(*self._timers)
        if request.get("K-Original-Host"):
            request.set("Host", request.get("K-Original-Host"))
            request.set("K-Original-Host", None)
        if not request.get("Forwarded"):
            request.set("Forwarded", f"host={request.get('Host')};proto=http")
        for name in ("Knative-Serving-Revision", "Knative-Serving-Namespace"):
            request.set(name, None)
        if self._breaker is None or request.get("K-Kubelet-Probe"):
            self._pass(request, clock)
        else:
            self._breaker.run(self, request, clock, self._pass)

    def _pass(self, request, clock):
        try:
            self.forward(request, self.target, clock)
        except Lost as lost:
            self.fail(request, lost, self.target)


class Breaker:
    """So many at once, so many waiting, and no more."""

    def __init__(self, running, waiting):
        self.running = threading.Semaphore(running)
        self.all = threading.Semaphore(running + waiting)

    def run(self, hop, request, clock, work):
        """Do the work in turn; or say that it is full, or that it took too long."""
        if not self.all.acquire(blocking=False):
            hop.say(request, 503, FULL)
            return
        try:
            self._wait(hop, request, clock, work)
        finally:
            self.all.release()

    def _wait(self, hop, request, clock, work):
        if not _in_time(lambda: self.running.acquire(timeout=0.02), request, clock):
            hop.say_late(request)
            return
        try:
            work(request, clock)
        finally:
            self.running.release()


def _in_time(fact, request, clock):
    """Wait for a fact; False where the clock runs out before."""
    while clock.left:
        if fact():
            return True
        if request.has_gone():
            raise Gone
    return False


def _agent_is(request, *beginnings):
    return request.get("User-Agent").startswith(beginnings)


def _echo(hop, request):
    """The answer to a look at the path, which goes no further."""
    given = request.get("K-Network-Hash")
    if given:
        hop.say(request, 200, fields=(("K-Network-Hash", given),))
    else:
        hop.say(request, 400, ROWS["a probe: without a hash"].text)


def _status(url, timeout, **headers):
    """The status of a GET, or None."""
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname, place.port, timeout=timeout)
    try:
        connection.request("GET", place.path or "/", headers=headers)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


class Activator(GoHop):
    """Where callers wait for the first pod, or for a place in one.

    Args:
        pods: gives the pods that there are.
        wake: is called when somebody waits and there is none.
    """

    late = b"activator request timeout"

    def __init__(self, pods, wake, *, concurrency=0, timers=(), queue_depth=10_000, **options):
        super().__init__(**options)
        self._pods, self._wake, self._timers = pods, wake, timers
        self._concurrency, self._depth = concurrency, queue_depth
        self._turn = itertools.count()
        self.revision, self.waiting = REVISION, 0

    def answer(self, request):
        probe = request.get("K-Network-Probe")
        if _agent_is(request, "kube-probe/") or request.get("K-Kubelet-Probe"):
            self.say(request, 200, fields=())
        elif probe == "probe":
            _echo(self, request)
        elif probe == "activator":
            self.say(request, 200, "activator", PLAIN[:1])
        elif probe:
            self.say(request, 400, f'unexpected probe header value: "{probe}"\n')
        elif (name := request.get("Knative-Serving-Revision") or self.revision) != self.revision:
            missing = f'revision.serving.knative.dev "{name}" not found'
            self.say(request, 404, f"Error getting active endpoint: {missing}\n")
        else:
            self._throttle(request, Clock(*self._timers))

    def _throttle(self, request, clock):
        with self.lock:
            is_full = self._concurrency and self.waiting >= self._depth
            self.waiting += not is_full
        if is_full:
            self.say(request, 503, FULL)
            return
        self._wake()
        try:
            pod = self._wait(request, clock)
        finally:
            with self.lock:
                self.waiting -= 1
        if pod is None:
            self.say_late(request)
        else:
            self._pass(request, pod, clock)

    def _wait(self, request, clock):
        found = []

        def choose():
            found[:] = filter(None, [self._free_pod()])
            return found or time.sleep(0.01)

        return found[0] if _in_time(choose, request, clock) else None

    def _free_pod(self):
        """A pod that has room, with a place in it taken; None where there is none."""
        pods = [pod for pod in self._pods() if pod.is_ready]
        for _ in pods:
            pod = pods[next(self._turn) % len(pods)]
            if pod.take(self._concurrency):
                return pod
        return None

    def _pass(self, request, pod, clock):
        request.set("K-Proxy-Request", "activator")
        try:
            self.forward(request, pod.url, clock)
        except Lost as lost:
            self.fail(request, lost, pod.url)
        finally:
            pod.give_back()


class Ingress(Hop):
    """The gateway's end: finds the service by Host, and a row of `ROWS` where a test wants one.

    Args:
        choose: gives the URL where a request goes next.
        hosts: what it knows, without ports; None: everything.
    """

    def __init__(self, choose, hosts=None, **options):
        super().__init__(**options)
        self._choose, self.hosts = choose, hosts
        self.unsaid = deque()

    def answer(self, request):
        host = request.get("Host").rpartition(":")[0] or request.get("Host")
        script = self._script(request)
        if script:
            self._play(request, *script)
        elif self.hosts is not None and host not in self.hosts:
            self._say_row(request, ROWS["ingress: no such host"])
        else:
            self._pass(request)

    def _script(self, request):
        with self.lock:
            if self.unsaid and self.unsaid[0][2] in (None, request.path):
                return self.unsaid.popleft()
        return None

    def _play(self, request, row, executed, path):
        if executed:
            self._dress(request)
            self.forward(request, self._choose(), Clock(), mute=True)
        self._say_row(request, row)

    def _say_row(self, request, row):
        if row.status is None:
            request.hang_up()
        else:
            self.say(request, row.status, row.text, row.fields)

    def _dress(self, request):
        """Set what an ingress sets, whatever came."""
        request.set("Knative-Serving-Revision", REVISION)
        request.set("Knative-Serving-Namespace", "default")
        request.set("X-Forwarded-Proto", "http")
        if not request.get("X-Request-Id"):
            request.set("X-Request-Id", f"{random.getrandbits(128):032x}")

    def _pass(self, request):
        self._dress(request)
        try:
            fields = (("x-envoy-upstream-service-time", "1"), ("server", "envoy"))
            self.forward(request, self._choose(), Clock(), fields)
        except Lost as lost:
            self._fail(request, lost)

    def _fail(self, request, lost):
        if lost.phase == "body":
            request.hang_up()
            return
        name = "no connection" if lost.phase == "connect" else "the connection ended"
        self._say_row(request, ROWS[f"Envoy: {name}"])


class Pod:
    """A runner and the queue-proxy beside it.

    Attributes:
        runner: what `start` gave; `servers.Runner` by default.
        proxy: its `QueueProxy`; `url` is where that listens.
    """

    def __init__(self, start, options):
        self._start = start
        self._container, self._stack = ExitStack(), ExitStack()
        self._taken, self._lock = 0, threading.Lock()
        self.log = []
        self.runner = self._container.enter_context(start())
        self.proxy = self._stack.enter_context(QueueProxy(self.runner.url, **options))
        self.url = self.proxy.url
        self.is_ready = False

    def take(self, concurrency):
        """Take a place; False where all are taken."""
        with self._lock:
            free = not concurrency or self._taken < concurrency
            self._taken += free
            return free

    def give_back(self):
        """Give the place back."""
        with self._lock:
            self._taken -= 1

    def look(self):
        """Look whether it is ready, as an activator does, until it is or is gone."""
        probe = {"User-Agent": "Knative-Activator-Probe", "K-Network-Probe": "queue"}
        self.is_ready = _status(self.url, 0.5, **probe) == 200
        return self.is_ready

    def freeze(self):
        """Have the container do nothing more, with its port open, until it is thawed."""
        self.runner.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        """Have it go on."""
        self.runner.process.send_signal(signal.SIGCONT)

    def kill(self):
        """Kill the container; the queue-proxy stays, and finds nobody."""
        self.runner.process.kill()
        self._stop_container()

    def restart(self):
        """A new container in the same pod; returns when it is ready."""
        self._stop_container()
        self.runner = self._container.enter_context(self._start())
        self.proxy.target = self.runner.url
        _until(self.look)

    def close(self):
        """End it at once."""
        self.is_ready = False
        self._stack.close()
        self._stop_container()

    @property
    def said(self):
        """Every line that its containers have logged, as far as it was read."""
        return [*self.log, *getattr(self.runner, "logged", [])]

    def _stop_container(self):
        if hasattr(self.runner, "process"):
            self.thaw()
        self._container.close()
        self.log += getattr(self.runner, "logged", [])
        self.runner = None


def _until(fact, seconds=30):
    end = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > end:
            raise AssertionError("the double waited in vain")
        time.sleep(0.05)


class Double:
    """A service, its pods, and the way to them; see this module's own text."""

    def __init__(
        self,
        start,
        *,
        through_activator=False,
        concurrency=0,
        timeout=math.inf,
        response_start=math.inf,
        idle=math.inf,
        queue_depth=10_000,
        quiet=0.3,
        hosts=None,
        tls=None,
        port=0,
    ):
        timers = {"timeout": timeout, "response_start": response_start, "idle": idle}
        self._start = start
        self._proxy = {"concurrency": concurrency, "quiet": quiet, **timers}
        self._threads, self._lock = [], threading.Lock()
        self.through_activator = through_activator
        self.pods, self.former, self.hold, self.started = [], [], False, 0
        queue = {"concurrency": concurrency, "queue_depth": queue_depth}
        self.activator = Activator(
            lambda: self.pods, self._wake, timers=tuple(timers.values()), **queue
        )
        self.ingress = Ingress(self._choose, hosts, port=port, tls=tls)
        self.url = self.ingress.url

    def say(self, row, times=1, *, executed=False, path="/v1/execute"):
        """Have the next requests of *path* (None: of all) answered by a row of `ROWS`."""
        self.ingress.unsaid.extend([(ROWS[row], executed, path)] * times)

    @property
    def unsaid(self):
        """How many of these answers nobody has asked for yet."""
        return len(self.ingress.unsaid)

    @property
    def executed(self):
        """Calls that runners were given whole."""
        proxies = [pod.proxy for pod in [*self.former, *self.pods]]
        seen = [one[:2] for proxy in proxies for one in proxy.seen]
        return seen.count(("POST", "/v1/execute"))

    @property
    def finished(self):
        """Calls that the runners' logs tell of."""
        lines = [line for pod in [*self.former, *self.pods] for line in pod.said]
        return sum(line.get("event") == "execute" for line in lines)

    def scale(self, pods):
        """Have so many pods; returns when they are ready, or gone."""
        for pod in self.pods[pods:]:
            self._take_out(pod)
            pod.close()
        for _ in range(pods - len(self.pods)):
            self._add_pod()

    def drain(self, pod):
        """End a pod as Kubernetes does: no new callers, the queue-proxy, then the container."""
        self._take_out(pod)
        pod.proxy.drain()
        pod.close()

    def kill_pods(self):
        """Kill every runner; the queue-proxies stay."""
        for pod in self.pods:
            pod.kill()

    def __enter__(self):
        self._stack = ExitStack()
        self._stack.callback(self._end)
        self._stack.enter_context(self.activator)
        self._stack.enter_context(self.ingress)
        return self

    def __exit__(self, *exc):
        self._stack.close()

    def _end(self):
        self.hold = False
        for thread in self._threads:
            thread.join()
        self.scale(0)

    def _take_out(self, pod):
        self.pods.remove(pod)
        self.former.append(pod)

    def _choose(self):
        ready = [pod for pod in self.pods if pod.is_ready]
        if self.through_activator or not ready:
            return self.activator.url
        return random.choice(ready).url

    def _wake(self):
        """Start the first pod, once, for all who wait."""
        with self._lock:
            if self.pods or any(thread.is_alive() for thread in self._threads):
                return
            self._threads.append(threading.Thread(target=self._add_pod))
            self._threads[-1].start()

    def _add_pod(self):
        self.started += 1
        pod = Pod(self._start, self._proxy)
        self.pods.append(pod)
        _until(lambda: not self.hold and pod.look())


@contextmanager
def double(home, *, pods=1, env=None, start=None, **settings):
    """A Knative service of real runners over *home*, until the block ends."""
    started = start or (lambda: runner(home, "--host=127.0.0.1", wait=False, **POD, **(env or {})))
    with Double(started, **settings) as knative:
        knative.scale(pods)
        yield knative


def main():
    """Serve a double until told to end."""
    parser = argparse.ArgumentParser(description="A double of Knative before real runners.")
    parser.add_argument("--home", required=True, help="RUNNER_HOME of the runners")
    parser.add_argument("--pods", type=int, default=1)
    parser.add_argument("--through-activator", action="store_true")
    parser.add_argument("--concurrency", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=math.inf)
    parser.add_argument("--port", type=int, default=0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    options = {name: value for name, value in os.environ.items() if name.startswith("RUNNER_")}
    with suppress(KeyboardInterrupt), double(**vars(parser.parse_args()), env=options) as knative:
        print("Serving on", knative.url, file=sys.stderr, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
