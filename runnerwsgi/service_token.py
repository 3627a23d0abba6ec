"""The secret that gateway and runner share: from a setting, or from a file that is read again."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .errors import ConfigurationError
from .settings import read_token

if TYPE_CHECKING:
    from .secrets import Secret
    from .settings import Settings

log = logging.getLogger(__name__)


class ServiceToken:
    """Gives the token that is valid now; None where none is configured.

    Example::

        token = ServiceToken(file=Path("/run/secrets/runner-token"))
        token.current().reveal()

    Args:
        value: the token itself; with it *file* is not looked at.
        file: holds the token, and may be replaced while we run. While it cannot be read, the
            last token stays.

    Raises:
        ConfigurationError: the file cannot be read, or holds no token.
    """

    def __init__(self, value: Secret | None = None, file: Path | None = None) -> None:
        self._value = value
        self._file = None if value is not None else file
        # Looked at before it is read: what changes in between is then seen as a change.
        self._seen = self._state()
        if self._file is not None:
            self._value = read_token(self._file)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The token that settings name: their file, which may change, or their value."""
        if settings.service_token_file is not None:
            return cls(file=settings.service_token_file)
        return cls(settings.service_token)

    def current(self) -> Secret | None:
        """The token; a file that has changed is read again."""
        if self._file is not None and (state := self._state()) != self._seen:
            self._seen = state
            try:
                self._value = read_token(self._file)
            except ConfigurationError as exc:
                log.warning("%s The last token stays in use.", exc)
        return self._value

    def _state(self) -> tuple[int, int, int] | None:
        if self._file is None:
            return None
        try:
            status = os.stat(self._file)
        except OSError:
            return None
        # The size, too: a file that is half written changes again within one tick of the clock.
        return status.st_mtime_ns, status.st_size, status.st_ino
