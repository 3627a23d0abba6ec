"""Secrets that do not show themselves, and their encryption at rest."""

from __future__ import annotations

import hmac
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NoReturn, Self

from .errors import ConfigurationError, SecretsUnavailable, StorageError


class Secret:
    """A text that neither ``repr``, ``str``, a format nor a pickle gives away.

    Example::

        token = Secret("correct horse battery staple")
        f"{token}"                            # '[secret]'
        token == "correct horse"              # False, compared in constant time
        send(token.reveal())                  # the one way to the text
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself. Call it where the text is used, and keep no copy."""
        return self._value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret | str):
            return NotImplemented
        text = other.reveal() if isinstance(other, Secret) else other
        return hmac.compare_digest(_utf8(self._value), _utf8(text))

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "[secret]"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Immutable, so a copy is itself; and `copy` would otherwise go through pickle's door.
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("A Secret is not pickled: pass the setting it came from, not its value.")


def _utf8(text: str) -> bytes:
    # A lone surrogate is a legal str; comparing must not raise on it.
    return text.encode("utf-8", "surrogatepass")


class Vault:
    """Encrypts values for the database with the keys of one file (Fernet: AES-128-CBC, HMAC).

    The file is made, readable by its owner only, when the first value is sealed. It holds
    one key a line: the first seals, all of them open, so that a key is changed by putting a
    new line on top. Several machines with one database need the same file.

    Example::

        vault = Vault(home / "secret.key")
        token = vault.seal("install-1/api-key", "s3cr3t")
        vault.open("install-1/api-key", token)  # 's3cr3t'
    """

    def __init__(self, key_file: Path) -> None:
        self.key_file = Path(key_file)
        self._box: Any = None

    def seal(self, place: str, value: str) -> bytes:
        """Encrypt *value* for *place*, such as ``"<install id>/<key>"``.

        Raises:
            StorageError: the key file can be neither read nor made.
            ConfigurationError: the key file holds something else.
        """
        if not self.key_file.exists():
            _create_key(self.key_file)
        return bytes(self._keys().encrypt(json.dumps([place, value]).encode()))

    def open(self, place: str, token: bytes) -> str:
        """Decrypt what was sealed for the same place.

        A token that was copied from another row does not open.

        Raises:
            SecretsUnavailable: another key or another place, a damaged token, or no key file.
        """
        from cryptography.fernet import InvalidToken

        if not self.key_file.exists():
            raise SecretsUnavailable(
                f"The key file {self.key_file} is gone, so stored secrets cannot be decrypted: "
                "restore it, or install the extension again with its secrets."
            )
        try:
            found, value = json.loads(self._keys().decrypt(token))
        except InvalidToken:
            found, value = None, ""
        if found != place:
            raise SecretsUnavailable(
                f"The secret {place} was not sealed with a key of {self.key_file}: restore that "
                "file, or install the extension again with its secrets."
            )
        return str(value)

    def derive(self, purpose: str) -> tuple[bytes, ...]:
        """Keys for another purpose than sealing: one for each of the file's, in their order.

        Raises:
            StorageError: the key file can be neither read nor made.
            ConfigurationError: the key file holds something else.
        """
        if not self.key_file.exists():
            _create_key(self.key_file)
        self._keys()
        lines = _read_lines(self.key_file)
        return tuple(hmac.digest(line, purpose.encode(), "sha256") for line in lines)

    def _keys(self) -> Any:
        # Read once: the file changes only when an operator changes keys and restarts.
        if self._box is None:
            self._box = _read_keys(self.key_file)
        return self._box


def _read_keys(file: Path) -> Any:
    # cryptography takes 30 ms to import: only who uses secrets pays for it.
    from cryptography.fernet import Fernet, MultiFernet

    try:
        return MultiFernet([Fernet(line) for line in _read_lines(file)])
    except ValueError as exc:
        raise ConfigurationError(
            f"The key file {file} holds something else than keys: "
            "restore it from a backup, or remove it and install the secrets again."
        ) from exc


def _read_lines(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().split()
    except OSError as exc:
        raise StorageError(
            f"The key file {file} cannot be read: {exc.strerror}. "
            "Give it to the user that runs the gateway."
        ) from exc


def _create_key(file: Path) -> None:
    """Make a key file with mode 0600, whole or not at all; another process's file stays."""
    from cryptography.fernet import Fernet

    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(Fernet.generate_key() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            _link(draft, file)
        finally:
            os.unlink(draft)
    except OSError as exc:
        raise StorageError(
            f"The key file {file} cannot be made: {exc.strerror}. "
            "Make its folder writable for the user that runs the gateway, or set RUNNER_HOME."
        ) from exc


def _link(draft: str, file: Path) -> None:
    # A link fails where the name exists: of processes that start together, one wins.
    try:
        os.link(draft, file)
    except FileExistsError:
        return
