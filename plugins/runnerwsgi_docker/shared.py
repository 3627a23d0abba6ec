"""What host and container share: a folder of bundles, a folder of sockets, and the token."""

from __future__ import annotations

import hmac
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runnerwsgi.errors import ConfigurationError, StorageError
from runnerwsgi.stores import is_remote, root_of

from . import callback_folder, service_token, token_file
from .container import TOKEN

if TYPE_CHECKING:
    from runnerwsgi import Settings


@dataclass(frozen=True, slots=True)
class Shared:
    """The folders of a ``RUNNER_HOME`` that a container reads.

    Attributes:
        home: closed to other users (0700), so that what is in it may be open to the container's.
        bundles: what `runnerwsgi install` puts there is seen at once.
        sockets: gateways listen in it.
        secrets: the container's copy of the token.
    """

    home: Path
    bundles: Path
    sockets: Path
    secrets: Path

    @classmethod
    def of(cls, settings: Settings) -> Shared:
        """The folders as the settings have them."""
        home = settings.home.resolve()
        secrets_folder = token_file(home).parent / "secrets"
        return cls(home, bundle_folder(settings), callback_folder(home), secrets_folder)

    @property
    def copy(self) -> Path:
        """The token as the container reads it."""
        return self.secrets / Path(TOKEN).name

    def prepare(self, settings: Settings) -> None:
        """Make the folders, and the token where there is none.

        Raises:
            StorageError: something cannot be written.
            ConfigurationError: the token that is set is none.
        """
        settings.make_home()
        try:
            # The container's user is none of ours: the file is open, and the way to it closed.
            self.secrets.parent.mkdir(mode=0o700, exist_ok=True)
            self.secrets.parent.chmod(0o700)
            for folder, mode in (
                (self.bundles, 0o755),
                (self.sockets, 0o711),
                (self.secrets, 0o755),
            ):
                _make(folder, mode)
            _write(self.copy, _token(settings), 0o444)
        except OSError as exc:
            raise StorageError(
                f"{exc.filename or self.home} cannot be written: {exc.strerror}. RUNNER_HOME is a "
                "folder that your user owns."
            ) from exc

    def has_token(self, token: str) -> bool:
        """Whether the container was given this one."""
        try:
            return hmac.compare_digest(self.copy.read_bytes().strip(), token.encode())
        except OSError:
            return False


def bundle_folder(settings: Settings) -> Path:
    """The folder of bundles on this machine; an empty one where they are elsewhere."""
    folder = settings.home / "bundles" if is_remote(settings) else root_of(settings)
    return folder.resolve()


def _token(settings: Settings) -> str:
    """The token that is set, or the one that was made once; made now where there is none."""
    kept = token_file(settings.home)
    try:
        found = service_token(settings).current()
    except ConfigurationError as exc:
        if settings.service_token_file is not None:
            raise
        raise ConfigurationError(
            f"{kept} holds no token: remove it, and a new one is made."
        ) from exc
    if found is not None:
        return found.reveal()
    made = secrets.token_urlsafe(32)
    _write(kept, made, 0o600)
    return made


def _make(folder: Path, mode: int) -> None:
    """Make a folder with a mode, or add what the mode has to one that is there."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        pass
    else:
        folder.chmod(mode)
    if folder.stat().st_mode & mode != mode:
        folder.chmod(folder.stat().st_mode & 0o777 | mode)


def _write(file: Path, text: str, mode: int) -> None:
    """Write a file as a whole, with its mode from the first byte on."""
    content = f"{text}\n".encode()
    if file.exists() and file.read_bytes() == content and file.stat().st_mode & 0o777 == mode:
        return
    handle, name = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as new:
            os.fchmod(handle, mode)
            new.write(content)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise
