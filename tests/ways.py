"""The ways to a runner that is a Knative service: through the double alone, and a real Envoy."""

from contextlib import contextmanager
from urllib.parse import urlsplit

from envoy import PROFILES, SERVICE, envoy
from knative_double import double

WAYS = ("double", *PROFILES)


class Way:
    """An application's end of it.

    Attributes:
        name: one of WAYS.
        env: the variables that name it.
        service: the double at its other end.
        ingress: the Envoy in front of that, where there is one.
    """

    def __init__(self, name, service, ingress=None):
        self.name, self.service, self.ingress = name, service, ingress
        self.env = variables(ingress or service, SERVICE if ingress else None)


def variables(door, host=None):
    """What an application sets for a service that is reached at *door*.

    Where a *host* is given, nobody's DNS knows it: only the ingress at the door does.
    """
    env = {"RUNNER_BACKEND": "knative", "RUNNER_BASE_URL": door.url}
    if host:
        env |= {"RUNNER_BASE_URL": f"http://{host}"}
        env |= {"RUNNER_KNATIVE_CONNECT_TO": urlsplit(door.url).netloc}
    return env


@contextmanager
def way(name, home, **settings):
    """Go one of WAYS until the block ends.

    Args:
        home: of the runners.
        settings: the double's, such as `pods` and `env`.
    """
    with double(home, **settings) as service:
        if name not in PROFILES:
            yield Way(name, service)
            return
        # Whether there are pods or not: before the first one it is the activator that waits.
        with envoy(name, service.activator.url) as ingress:
            yield Way(name, service, ingress)
