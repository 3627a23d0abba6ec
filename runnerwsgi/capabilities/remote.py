"""What a guest may ask, on a runner: the gateway that sent the call is asked back (protocol §7)."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from runnerwsgi.capabilities import (
    AT_THE_RUNNER,
    MAX_BYTES,
    Call,
    HostCapabilities,
    interface_of,
    merge,
    not_granted,
)
from runnerwsgi.capabilities.egress import Egress
from runnerwsgi.capabilities.questions import (
    MAX_QUESTION_BYTES,
    PARAMETERS,
    answer_from_json,
    question_to_json,
)
from runnerwsgi.capabilities.user import FUNCTIONS as USER
from runnerwsgi.client import parse_base
from runnerwsgi.errors import (
    CapabilityError,
    ConfigurationError,
    DeadlineExceeded,
    RunnerError,
    UnknownCapability,
)
from runnerwsgi.logs import emit
from runnerwsgi.upstream import Upstream
from runnerwsgi.wire import problem_code

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runnerwsgi.capabilities import Functions, Interface
    from runnerwsgi.protocol import Callback, Capabilities, ExecuteRequest
    from runnerwsgi.settings import Settings
    from runnerwsgi.upstream import Answer

log = logging.getLogger(__name__)

# Gateways that are known at once: one socket for each process of an application.
MAX_GATEWAYS = 64
# A gateway has few slots for questions, and each is held for milliseconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.2

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_SOCKET_URL = re.compile(
    r"unix://(?P<name>[A-Za-z0-9_-][A-Za-z0-9._-]{0,99})(?P<path>(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+)"
)


class AskingBack:
    """Gives each call on a runner its capabilities: who calls and `http.fetch` here, the rest back.

    Example::

        asking = AskingBack(Settings.from_env(os.environ))
        request = replace(request, capabilities=asking.of(request))

    Args:
        settings: ``RUNNER_CALLBACK_DIR``, where the sockets of gateways are;
            ``RUNNER_EGRESS_ALLOW``, a bound of this runner's own where there is one.
    """

    def __init__(self, settings: Settings) -> None:
        max_bytes = min(settings.max_response_bytes, MAX_BYTES)
        # Without a list of its own a runner holds the one that came with the call, which the
        # gateway has narrowed to what its operator allows.
        egress = Egress(settings.egress_allow or None, max_bytes=max_bytes)
        self._local = merge(USER, egress.functions())
        self._folder = settings.callback_dir
        self._ways: OrderedDict[str, _Way] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, request: ExecuteRequest) -> Capabilities:
        """What the guest of *request* may ask."""
        return _Asked(request, self._local, self._way)

    def close(self) -> None:
        """Close the idle connections to gateways."""
        with self._lock:
            ways, self._ways = self._ways, OrderedDict()
        for way in ways.values():
            way.upstream.close()

    def _way(self, url: str) -> _Way:
        with self._lock:
            way = self._ways.pop(url, None) or _parse(url, self._folder)
            self._ways[url] = way
            oldest = self._ways.popitem(last=False)[1] if len(self._ways) > MAX_GATEWAYS else None
        if oldest:
            oldest.upstream.close()
        return way


@dataclass(frozen=True, slots=True)
class _Way:
    """The way to one gateway: the connections, and the path that its questions begin with."""

    upstream: Upstream
    prefix: str


class _Asked(HostCapabilities):
    """The capabilities of one call, under its grants."""

    def __init__(
        self, request: ExecuteRequest, local: Functions, way: Callable[[str], _Way]
    ) -> None:
        context = request.context
        call = Call(
            tenant_id=context.tenant_id,
            extension_id=context.extension_id,
            install_id=context.install_id,
            request_id=context.request_id,
            user=request.user,
            egress=request.egress,
        )
        super().__init__(call, request.providers, local)
        self._way = way
        self._callback = request.callback

    def ask_back(self, base: str | None) -> Callback | None:
        """The gateway's own, for a runner behind this one."""
        return self._callback

    def _find(self, interface: str, function: str) -> Callable[..., Any] | None:
        if interface in AT_THE_RUNNER:
            return super()._find(interface, function)
        return partial(self._ask, interface, function)

    def _ask(self, interface: str, function: str, call: Call, *args: Any) -> Any:
        row = interface_of(interface, function)
        asked = f"{interface}.{function}"
        if self._callback is None:
            raise UnknownCapability(
                f"{asked} ({row.capability}): the gateway that called takes no questions: set "
                "RUNNER_CALLBACK_BASE there."
            )
        try:
            answer = self._post(self._callback, interface, function, args, call)
            if answer.status == 200:
                found = answer_from_json(interface, answer.body)
                if "ok" in found:
                    return found["ok"]
                raise CapabilityError(found["err"], f"{asked} was refused by the gateway")
        except ConfigurationError as exc:
            raise UnknownCapability(f"{asked} ({row.capability}): {exc}") from exc
        except CapabilityError:
            raise
        except RunnerError as exc:
            raise self._failed(asked, row, str(exc)) from exc
        raise self._refused(interface, function, row, answer)

    def _post(
        self, callback: Callback, interface: str, function: str, args: tuple[Any, ...], call: Call
    ) -> Answer:
        """Ask until there is a slot for the question, or no time."""
        if not (_NAME.fullmatch(interface) and _NAME.fullmatch(function)):
            raise ConfigurationError("no name that can be asked for")
        deadline, pause = time.monotonic() + call.timeout, _FIRST_PAUSE
        way = self._way(callback.url)
        body = question_to_json(interface, function, args)
        headers = [
            ("Authorization", f"Bearer {callback.token.reveal()}"),
            ("Content-Type", "application/json"),
        ]
        while True:
            answer = way.upstream.exchange(
                "POST",
                f"{way.prefix}/{interface}/{function}",
                headers=headers,
                body=body,
                timeout=max(deadline - time.monotonic(), 0.001),
                max_bytes=MAX_QUESTION_BYTES,
                repeatable=_only_reads(interface, function),
            )
            if answer.status != 429:
                return answer
            if time.monotonic() + pause > deadline:
                raise DeadlineExceeded("the gateway had no slot for the question")
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _refused(
        self, interface: str, function: str, row: Interface, answer: Answer
    ) -> RunnerError:
        asked, code = f"{interface}.{function}", problem_code(answer.body)
        if (answer.status, code) == (403, "forbidden"):
            return not_granted(interface, function, row)
        if (answer.status, code) == (404, "not-found"):
            return UnknownCapability(f"{asked} ({row.capability}) is provided by nobody there")
        return self._failed(asked, row, f"answered {answer.status} {code}".rstrip())

    def _failed(self, asked: str, row: Interface, text: str) -> CapabilityError:
        emit(
            log,
            logging.WARNING,
            "callback.failed",
            asked=asked,
            error=text,
            request_id=self._call.request_id,
            tenant_id=self._call.tenant_id,
            extension_id=self._call.extension_id,
        )
        return CapabilityError(row.failed, f"{asked}: the gateway: {text}")


def _only_reads(interface: str, function: str) -> bool:
    """Whether a question may be sent twice: a plugin's own function may do anything."""
    return interface in PARAMETERS and function.startswith(("get", "list"))


def _parse(url: str, folder: Path | None) -> _Way:
    """The way that a gateway names: its origin, or a socket in the folder that both share.

    Raises:
        ConfigurationError: it is neither, or there is no such folder.
    """
    if not url.startswith("unix:"):
        origin, prefix = parse_base(url, "callback.url", "a gateway")
        return _Way(Upstream(origin), prefix)
    found = _SOCKET_URL.fullmatch(url)
    if found is None:
        raise ConfigurationError("callback.url names no socket: expected unix://NAME/PATH.")
    if folder is None:
        raise ConfigurationError(
            "The gateway answers questions on a UNIX socket: set RUNNER_CALLBACK_DIR of this "
            "runner to the folder that both share."
        )
    return _Way(Upstream(folder / found["name"]), found["path"])
