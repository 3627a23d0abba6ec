"""Log records of one line each: an event and its fields, as text or as JSON (security §6)."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from .headers import printable

if TYPE_CHECKING:
    from .protocol import ExecuteRequest, ExecuteResponse
    from .settings import Settings

MAX_VALUE = 512
_LEVELS = {"info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


class Fields(dict[str, Any]):
    """The fields of a record, rendered only when a handler really writes them."""

    def __str__(self) -> str:
        return " ".join(f"{key}={_text(value)}" for key, value in self.items() if value is not None)


def _text(value: Any) -> str:
    text = printable(str(value), MAX_VALUE)
    return '"' + text.replace('"', r"\"") + '"' if " " in text or '"' in text else text


def emit(logger: logging.Logger, level: int, event: str, /, **fields: Any) -> None:
    """Log one event, such as ``emit(log, logging.INFO, "execute", status=200)``."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s %s", event, Fields(fields))


def emit_call(
    logger: logging.Logger,
    backend: str,
    request: ExecuteRequest,
    response: ExecuteResponse,
    duration_ms: float,
) -> None:
    """Log what came of a handler call, and the extension's own lines."""
    context = request.context
    whose = {
        "request_id": context.request_id,
        "tenant_id": context.tenant_id,
        "extension_id": context.extension_id,
    }
    emit(
        logger,
        logging.INFO if response.outcome == "ok" else logging.WARNING,
        "execute",
        backend=backend,
        **whose,
        method=request.http.method,
        path=request.http.path,
        status=response.status,
        outcome=response.outcome,
        error=response.error,
        duration_ms=round(duration_ms, 1),
    )
    for line in response.logs:
        emit(
            logger,
            _LEVELS.get(line.level, logging.INFO),
            "extension",
            **whose,
            message=line.message,
        )


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``event`` and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render *record*; exceptions become one string with escaped line ends."""
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        args = record.args if isinstance(record.args, tuple) else ()
        if len(args) == 2 and isinstance(args[1], Fields):
            entry["event"] = args[0]
            entry.update({key: _json(value) for key, value in args[1].items() if value is not None})
        else:
            entry["event"] = printable(record.getMessage(), 4 * MAX_VALUE)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True, default=str)


def _json(value: Any) -> Any:
    return value if isinstance(value, int | float | bool) else printable(str(value), MAX_VALUE)


def configure(settings: Settings) -> None:
    """Send our records and the server's to stderr as configured. Only programs call it."""
    handler = logging.StreamHandler(sys.stderr)
    form = "%(levelname)s %(name)s: %(message)s"
    handler.setFormatter(
        JsonFormatter() if settings.log_format == "json" else logging.Formatter(form)
    )
    for name in ("runnerwsgi", "waitress"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(settings.log_level.upper())
        logger.propagate = False
    # A line for each request that waits a moment would hide the rest; slots say what is too much.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
