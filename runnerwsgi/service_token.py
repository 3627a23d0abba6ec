"""The secret that gateway and runner share: from a setting, or from a file that is read again."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigurationError
from .settings import read_token

if TYPE_CHECKING:
    from .secrets import Secret

log = logging.getLogger(__name__)


class ServiceToken:
    """Gives the token that is valid now; None where none is configured.

    Example::

        token = ServiceToken(file=Path("/run/secrets/runner-token"))
        token.current().reveal()

    Args:
        value: the token itself; it wins.
        file: holds the token, and may be replaced while we run. While it cannot be read, the
            last token stays.

    Raises:
        ConfigurationError: the file cannot be read, or holds no token.
    """

    def __init__(self, value: Secret | None = None, file: Path | None = None) -> None:
        self._value = value
        self._file = None if value is not None else file
        self._seen: tuple[int, int] | None = None
        if self._file is not None:
            self._value, self._seen = read_token(self._file), self._state()

    def current(self) -> Secret | None:
        """The token; a file that has changed is read again."""
        if self._file is not None and (state := self._state()) != self._seen:
            self._seen = state
            try:
                self._value = read_token(self._file)
            except ConfigurationError as exc:
                log.warning("%s The last token stays in use.", exc)
        return self._value

    def _state(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._file or "")
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino
