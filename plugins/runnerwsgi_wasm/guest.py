"""A compiled component, linked and ready: one instance and one answer per call."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wasmtime import WasmtimeError

from runnerwsgi.errors import BodyTooLarge

from .faults import BadAnswer, NotRunnable
from .handler import MAX_BODY_BYTES, Answer, handler_of
from .host import Entered, link
from .memory import largest_gone, linear_memories

if TYPE_CHECKING:
    import wasmtime
    from wasmtime.component import Component

    from .call import Call
    from .engine import Engine

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 §5.5; TAB may stay


def checked(answer: Answer, max_body_bytes: int) -> Answer:
    """A handler's answer, if it is one that HTTP allows, with header names in lower case.

    Raises:
        BadAnswer: a status outside 200..599, a header that RFC 9110 §5 does not allow, or a
            body above *max_body_bytes*.
    """
    if not 200 <= answer.status <= 599:
        raise BadAnswer(f"status {answer.status}; a handler answers 200 to 599")
    if (size := len(answer.body or b"")) > max_body_bytes:
        raise BadAnswer(f"a body of {size} bytes; at most {max_body_bytes} are allowed")
    for name, value in answer.headers:
        if not _TOKEN.fullmatch(name):
            raise BadAnswer(f"header name {name!r:.80}")
        if _FORBIDDEN.search(value):
            raise BadAnswer(f"header {name} has a control character: {value!r:.80}")
    headers = tuple((name.lower(), value) for name, value in answer.headers)
    return Answer(answer.status, headers, answer.body)


class Guest:
    """One component, linked once and called from any number of threads.

    Example::

        guest = Guest(engine, component)
        answer = guest.answer(call)

    Raises:
        NotRunnable: it exports no ``handler`` of the world's type.
    """

    def __init__(self, engine: Engine, component: Component) -> None:
        self._engine = engine
        self._component = component
        exports = component.type.exports(engine.wasmtime)
        self._handler = handler_of(component, {name: e.ty for name, e in exports.items()})
        try:
            self._linker = link(engine.wasmtime, component)
        except WasmtimeError as exc:
            raise NotRunnable(f"it cannot be linked: {exc}") from exc

    def answer(self, call: Call, max_body_bytes: int) -> Answer:
        """Make an instance, ask it, throw it away.

        Raises:
            BodyTooLarge: the engine cannot carry the request's body; nothing was run.
            BadAnswer: the guest's answer is no HTTP answer.
            WasmtimeError: it trapped; ``call.failure`` is set when a host function did it.
        """
        check_size(call.request.http.body, self._handler.max_body_bytes)
        limits = call.request.limits
        store = self._engine.new_store(call.seconds_left, limits.memory_mb, limits.fuel)
        try:
            with self._engine.ticker.running(), Entered(call, store):
                return checked(self._ask(call, store, max_body_bytes), max_body_bytes)
        except WasmtimeError:
            before = linear_memories()
            store.close()
            call.memory_at_end = largest_gone(before, linear_memories())
            raise
        finally:
            store.close()

    def _ask(self, call: Call, store: wasmtime.Store, max_body_bytes: int) -> Answer:
        with _timed(call, "instantiate"):
            instance = self._linker.instantiate(store, self._component)
        with _timed(call, "run"):
            return self._handler.ask(store, instance, call.request, max_body_bytes)


@contextmanager
def _timed(call: Call, phase: str) -> Iterator[None]:
    """Note how long a phase took, less what the guest waited for the host in it."""
    started, waited = time.monotonic(), call.host_seconds
    try:
        yield
    finally:
        took = time.monotonic() - started - (call.host_seconds - waited)
        call.timings[phase] = round(took * 1000, 3)
        call.timings["host"] = round(call.host_seconds * 1000, 3)


def check_size(body: bytes | None, limit: int = MAX_BODY_BYTES) -> None:
    """Refuse a body that the engine cannot carry.

    Raises:
        BodyTooLarge: it is above *limit*.
    """
    if body is not None and len(body) > limit:
        raise BodyTooLarge(
            f"a body of {len(body)} bytes; the engine carries {limit}",
            detail=f"Send a body of at most {limit} bytes.",
        )
