"""Bundles in a bucket of S3, or of anything that speaks as S3 does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from runnerwsgi.bundles import MAX_ARCHIVE_BYTES
from runnerwsgi.errors import BundleUnavailable, ConfigurationError, StorageError
from runnerwsgi.upstream import USER_AGENT

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_SECONDS = 5.0
# Between two pieces of an answer. The whole has the time of the fetch.
READ_SECONDS = 10.0
_PIECE_BYTES = 64 * 1024
_ABSENT = frozenset({"NoSuchKey", "404"})
_ACCESS = "check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, the machine's role …)"
_REGION = "set AWS_REGION or AWS_DEFAULT_REGION to the bucket's region"

# What S3 says by code, and boto3 by exception: what to do.
_MEANINGS: Mapping[str, str] = {
    "NoSuchBucket": "there is no such bucket: check RUNNER_BUNDLE_STORE and AWS_ENDPOINT_URL_S3",
    "AccessDenied": "access denied: these credentials may not do this (s3:GetObject to read, "
    "s3:ListBucket to be told what is missing, s3:PutObject to push)",
    "InvalidAccessKeyId": f"the access key is unknown: {_ACCESS}",
    "SignatureDoesNotMatch": f"the secret key is wrong: {_ACCESS}",
    "ExpiredToken": f"the credentials have expired: {_ACCESS}",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "PermanentRedirect": f"the bucket is elsewhere: {_REGION}",
    "AuthorizationHeaderMalformed": f"the region is wrong: {_REGION}",
    "SlowDown": "too many requests: try again later",
    "QuotaExceeded": "its quota is used up",
    "ParamValidationError": "no bucket can have this name: check RUNNER_BUNDLE_STORE",
    "NoCredentialsError": f"no credentials were found: {_ACCESS}",
    "PartialCredentialsError": f"the credentials are incomplete: {_ACCESS}",
    "CredentialRetrievalError": f"the credentials could not be had: {_ACCESS}",
    "ProfileNotFound": "AWS_PROFILE names no profile",
    "NoRegionError": f"no region is set: {_REGION}",
    "EndpointConnectionError": "nobody answers there: check AWS_ENDPOINT_URL_S3 and the network",
    "ConnectTimeoutError": "no connection in time: check AWS_ENDPOINT_URL_S3 and the network",
    "ReadTimeoutError": "it stopped answering",
    "ConnectionClosedError": "it ended the connection",
    "SSLError": "its certificate is not trusted: AWS_CA_BUNDLE names further authorities",
    "ResponseStreamingError": "its answer broke off",
    "IncompleteReadError": "its answer broke off",
}
_BY_STATUS = {403: "AccessDenied", 503: "SlowDown"}

T = TypeVar("T")


class S3Source:
    """One prefix of one bucket. Credentials, region and endpoint are found as boto3 finds them.

    Example::

        S3Source("s3://bundles/runner").read("tenants/…/bundle.tar.zst", 10.0)

    Args:
        url: ``s3://bucket`` or ``s3://bucket/prefix``.

    Raises:
        ConfigurationError: *url* is no such URL, or boto3 is not installed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        # What is shown of it, in logs and by health, must not have a key in it.
        if parts.scheme != "s3" or not parts.netloc or set(url) & set("@?#"):
            raise ConfigurationError(
                "RUNNER_BUNDLE_STORE is no URL of a bucket: write s3://bucket or "
                "s3://bucket/prefix, and leave credentials to the environment (AWS_…)."
            )
        if find_spec("boto3") is None:
            raise ConfigurationError(
                "RUNNER_BUNDLE_STORE=s3://… needs boto3: pip install 'runnerwsgi[s3]'."
            )
        self._bucket = parts.netloc
        self._prefix = f"{prefix}/" if (prefix := parts.path.strip("/")) else ""
        self.where = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        self._made: tuple[int, Any] | None = None

    def read(self, key: str, timeout: float) -> bytes | None:
        """The object, or None where there is none.

        Raises:
            BundleUnavailable: it is not to be had.
        """
        deadline = time.monotonic() + timeout
        try:
            return self._asked(lambda: self._get(key, deadline))
        except _Failed as exc:
            if exc.name in _ABSENT:
                return None
            raise BundleUnavailable(f"{self.where} cannot be read: {exc}") from exc

    def _get(self, key: str, deadline: float) -> bytes:
        answer = self._client().get_object(Bucket=self._bucket, Key=self._prefix + key)
        body = answer["Body"]
        try:
            return b"".join(_pieces(body, deadline))
        finally:
            body.close()

    def write(self, key: str, data: bytes, content_type: str, timeout: float) -> None:
        """Upload an object. The library's own timeouts bound it, about a minute in all.

        Raises:
            StorageError: it was not taken.
        """
        try:
            self._asked(
                lambda: self._client().put_object(
                    Bucket=self._bucket,
                    Key=self._prefix + key,
                    Body=data,
                    ContentType=content_type,
                )
            )
        except _Failed as exc:
            raise StorageError(f"{self.where} cannot be written: {exc}.") from exc

    @staticmethod
    def _asked(ask: Callable[[], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return ask()
        except ClientError as exc:
            raise _Failed.of_answer(exc.response) from exc
        except BotoCoreError as exc:
            raise _Failed(type(exc).__name__) from exc

    def _client(self) -> Any:
        """The client of this process; its connections must not be shared by a fork."""
        made = self._made
        if made is None or made[0] != os.getpid():
            made = self._made = os.getpid(), self._make()
        return made[1]

    @staticmethod
    def _make() -> Any:
        import boto3
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"total_max_attempts": 2, "mode": "standard"},
            user_agent_extra=USER_AGENT,
            # Many servers that speak S3 know no other checksums; we check the bytes ourselves.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        # A session of its own: the module's default one is not safe among threads.
        return boto3.session.Session().client("s3", config=config)

    def close(self) -> None:
        """Close the connections."""
        made, self._made = self._made, None
        if made is not None and made[0] == os.getpid():
            made[1].close()


class _Failed(Exception):
    """What S3 or boto3 said, by the name of :data:`_MEANINGS`."""

    def __init__(self, name: str, status: int = 0) -> None:
        shown = f"{name} ({status})" if status else name
        super().__init__(_MEANINGS.get(_BY_STATUS.get(status, name), shown))
        self.name = name

    @classmethod
    def of_answer(cls, answer: Mapping[str, Any]) -> _Failed:
        """Of an answer that is an error."""
        name = str(answer.get("Error", {}).get("Code", ""))[:100]
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return cls(name, 0 if name in _MEANINGS else status)


def _pieces(body: Any, deadline: float) -> Iterator[bytes]:
    total = 0
    while piece := body.read(_PIECE_BYTES):
        total += len(piece)
        if total > MAX_ARCHIVE_BYTES:
            raise _Failed(f"the object has more than {MAX_ARCHIVE_BYTES} bytes")
        if time.monotonic() > deadline:
            raise _Failed("ReadTimeoutError")
        yield piece
