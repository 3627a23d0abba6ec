"""One table of the shared ``RUNNER_*`` variables, read once, all faults told together."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from .errors import ConfigurationError, StorageError
from .origins import parse_egress_entry
from .secrets import Secret

log = logging.getLogger(__name__)

Parser = Callable[[str], Any]

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_MOUNT = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_ORIGIN = re.compile(r"https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
# Who asks and with which password, in a URL.
_SIGNED = re.compile(r"//[^/\s]*@")
# What examples and templates write where a token belongs: words, and no chance in them.
_PLACEHOLDER = re.compile(
    r"(?:change|replace|insert|this|me|it|your|my|the|a|an|with|here|please|runner|service|secret|"
    r"token|password|key|value|example|sample|placeholder|default|dummy|test|todo|[-_.<>{}$])+",
    re.IGNORECASE,
)


def text(value: str) -> str:
    """A text as it is."""
    return value


def boolean(value: str) -> bool:
    """``1/true/yes/on`` or ``0/false/no/off``, in any case."""
    word = value.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("use 1, true, yes or on; or 0, false, no or off")
    return word in _TRUE


def integer(low: int, high: int) -> Parser:
    """A whole number from *low* to *high*, written in ASCII digits only."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", value) or not low <= int(value) <= high:
            raise ValueError(f"use a whole number from {low} to {high}, without a unit")
        return int(value)

    return parse


def choice(*words: str) -> Parser:
    """One of a few words."""

    def parse(value: str) -> str:
        if value not in words:
            raise ValueError("use " + " or ".join(words))
        return value

    return parse


def matching(pattern: re.Pattern[str], advice: str) -> Parser:
    """A text of one form; *advice* says which."""

    def parse(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(advice)
        return value

    return parse


def listed(item: Parser) -> Parser:
    """A comma-separated list; blanks around an item do not count."""

    def parse(value: str) -> tuple[Any, ...]:
        return tuple(item(part.strip()) for part in value.split(",") if part.strip())

    return parse


def secret(value: str) -> Secret:
    """A token of at least 32 printable ASCII characters, never shown."""
    if len(value) < 32 or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("use at least 32 printable ASCII characters without blanks")
    if _PLACEHOLDER.fullmatch(value):
        raise ValueError("use a random text, not the words of an example")
    return Secret(value)


def credential(value: str) -> Secret:
    """A token that somebody else gave, of printable ASCII characters, never shown."""
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("use printable ASCII characters without blanks")
    return Secret(value)


def path(value: str) -> Path:
    """A path in the file system; ``~`` is the home folder."""
    return Path(value).expanduser()


def public_base(value: str) -> str:
    """A mount path such as ``/runner``, or an absolute URL whose path is the mount."""
    base = value.rstrip("/")
    mount = urlsplit(base).path if "://" in base else base
    origin = base.removesuffix(mount) if "://" in base else ""
    if not _MOUNT.fullmatch(mount) or (origin and not _ORIGIN.fullmatch(origin)):
        raise ValueError("use a path such as /runner, or https://ui.example.com/runner")
    return base


def egress(value: str) -> str:
    """An entry of an egress list, such as ``https://api.example.com``, in its canonical form."""
    try:
        return str(parse_egress_entry(value))
    except ConfigurationError as exc:
        raise ValueError(str(exc).rstrip(".")) from None


mount = matching(_MOUNT, "use a path such as /api/ext, without dots at the start of a segment")


def callback_base(value: str) -> str:
    """An origin, or ``unix:`` and the absolute path of a folder."""
    if not value.startswith("unix:/") and not _ORIGIN.fullmatch(value):
        raise ValueError(
            "use an origin such as http://gateway:8000, or unix: and an absolute path, such as "
            "unix:/run/runnerwsgi"
        )
    return value


origin = matching(_ORIGIN, "use an origin such as https://app.example.com, without a path")


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of a table of settings.

    Example::

        Setting("RUNNER_ECHO_GREETING", text, "hello", "What the echo says.", owner="echo")

    Attributes:
        name: the environment variable.
        parse: turns its text into a value; raises ValueError with what to write instead.
        default: the value when the variable is not set.
        meaning: one sentence for the reference page and `runnerwsgi env`.
        owner: ``core``, or the entry-point name of the plugin that reads it.
        shown: how the default reads in the documentation, where ``str(default)`` will not do.
        aliases: older names, accepted with a warning.
    """

    name: str
    parse: Parser
    default: Any
    meaning: str
    owner: str = "core"
    shown: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        """The attribute's name: ``RUNNER_TIMEOUT_MS`` is ``timeout_ms``."""
        return self.name.removeprefix("RUNNER_").lower()

    @property
    def default_text(self) -> str:
        """The default as the documentation shows it."""
        if self.shown:
            return self.shown
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        return str(self.default) if self.default not in (None, ()) else "none"


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "RUNNER_BACKEND",
        text,
        "knative",
        "Plugin that runs extensions, by entry-point name.",
        shown="`wasm` in `runnerwsgi runner`, else `knative`",
    ),
    Setting("RUNNER_PLUGINS", listed(text), (), "Further plugins, by entry-point name."),
    Setting("RUNNER_BASE_URL", text, None, "Where a remote runner is; read by remote backends."),
    Setting(
        "RUNNER_PUBLIC_BASE",
        public_base,
        "/runner",
        "Where browsers find us: a path, or an absolute URL whose path is the mount; "
        "on another origin it is the stronger isolation.",
    ),
    Setting("RUNNER_EXECUTE_MOUNT", mount, "/api/ext", "Path under which handlers are called."),
    Setting(
        "RUNNER_UI",
        choice("proxy", "redirect"),
        "proxy",
        "`redirect`: answer 307 to the backend's own address of a UI file.",
    ),
    Setting(
        "RUNNER_SERVICE_TOKEN",
        secret,
        None,
        "Shared secret of gateway and runner; read by remote backends.",
    ),
    Setting("RUNNER_SERVICE_TOKEN_FILE", path, None, "File that holds the service token."),
    Setting(
        "RUNNER_CALLBACK_BASE",
        callback_base,
        None,
        "How a runner reaches this gateway: an origin, or `unix:` and a folder of sockets; read by "
        "remote backends.",
    ),
    Setting(
        "RUNNER_CALLBACK_DIR",
        path,
        None,
        "Folder of the sockets through which this runner asks back, in `runnerwsgi runner`.",
    ),
    Setting(
        "RUNNER_TIMEOUT_MS",
        integer(100, 600_000),
        30_000,
        "Time for a whole exchange, in milliseconds, 100 to 600000.",
        aliases=("EXT_GATEWAY_TIMEOUT_MS",),
    ),
    Setting(
        "RUNNER_MAX_BODY_BYTES", integer(0, 2**31), 1_048_576, "Largest request body, in bytes."
    ),
    Setting(
        "RUNNER_MAX_RESPONSE_BYTES",
        integer(1, 2**31),
        4_194_304,
        "Largest handler answer, in bytes.",
    ),
    Setting("RUNNER_MAX_ASSET_BYTES", integer(1, 2**31), 33_554_432, "Largest UI file, in bytes."),
    Setting(
        "RUNNER_MEMORY_MB",
        integer(1, 4096),
        256,
        "Memory of one guest in MiB, settable per install.",
    ),
    Setting(
        "RUNNER_THREADS",
        integer(1, 1024),
        4,
        "Threads of the WSGI server, which cannot be asked.",
        shown="8 in `runnerwsgi serve`, 16 in `runnerwsgi runner`, else 4",
    ),
    Setting(
        "RUNNER_RESERVED_THREADS",
        integer(0, 1024),
        2,
        "Threads kept for the application's own pages; in a runner, for UI files and health.",
        shown="6 in `runnerwsgi runner`, else 2",
    ),
    Setting(
        "RUNNER_MAX_PER_EXTENSION",
        integer(1, 1024),
        None,
        "Calls of one extension that may run at once in a process.",
        shown="slots, less one where there are three or more",
    ),
    Setting(
        "RUNNER_HOME",
        path,
        None,
        "Folder of bundles, database, caches and keys; made with mode 0700.",
        shown="the user's data folder",
    ),
    Setting(
        "RUNNER_DATABASE_URL",
        text,
        None,
        "SQLAlchemy URL of the database of installs and storage.",
        shown="SQLite in `RUNNER_HOME`",
    ),
    Setting(
        "RUNNER_BUNDLE_STORE",
        text,
        None,
        "Where bundles are: a path, or a URL of `file:`, `https:` or `s3:`.",
        shown="`RUNNER_HOME/bundles`",
    ),
    Setting(
        "RUNNER_BUNDLE_STORE_TOKEN",
        credential,
        None,
        "Sent to a bundle store of `https:` as a bearer token.",
    ),
    Setting(
        "RUNNER_BUNDLE_CACHE_MB",
        integer(1, 1 << 20),
        1024,
        "Size of the bundles kept here of a store that is elsewhere, in MiB; what was used longest "
        "ago goes first.",
    ),
    Setting(
        "RUNNER_IDENTITY",
        choice("local", "header"),
        None,
        "Who calls, where the application passes no `identify`: `local` for development on "
        "loopback only, `header` behind a trusted proxy.",
    ),
    Setting(
        "RUNNER_IDENTITY_HEADER",
        matching(_HEADER_NAME, "use a header name such as X-Auth-Tenant"),
        None,
        "Header that names the tenant, with `RUNNER_IDENTITY=header`.",
    ),
    Setting(
        "RUNNER_TRUSTED_PROXIES",
        listed(text),
        (),
        "Peer addresses whose identity header is believed, comma-separated.",
    ),
    Setting(
        "RUNNER_PUBLIC_ORIGINS",
        listed(origin),
        (),
        "The application's own origins: calls with any other `Origin` are refused, and unsafe ones "
        "are accepted from them where a browser sends no `Sec-Fetch-Site`. Nobody else frames an "
        "extension's page.",
    ),
    Setting(
        "RUNNER_EGRESS_ALLOW",
        listed(egress),
        (),
        "Upper bound of what any install may reach with `http.fetch`.",
        shown="nothing",
    ),
    Setting(
        "RUNNER_ALLOW_INSECURE",
        boolean,
        False,
        "Accept plain http with a token to a public name; read by remote backends.",
    ),
    Setting(
        "RUNNER_IDEMPOTENCY_URL",
        text,
        "memory:",
        "Where a runner keeps idempotency keys: `memory:` for one process, `sqlite:////path` for "
        "several on one machine, `redis://…` or `postgresql://…` for several machines.",
    ),
    Setting(
        "RUNNER_IDEMPOTENCY_TTL_S",
        integer(600, 2_592_000),
        86_400,
        "Seconds for which a runner keeps the answer of a call with an idempotency key.",
    ),
    Setting("RUNNER_IMAGE", text, None, "Name of the image that this runner is in, which sets it."),
    Setting("RUNNER_REVISION", text, None, "What that image was built from; set by it, too."),
    Setting(
        "RUNNER_LOG_FORMAT",
        choice("text", "json"),
        "text",
        "Form of log lines, in `runnerwsgi serve` and `runner`.",
        shown="`json` in `runnerwsgi runner`, else `text`",
    ),
    Setting(
        "RUNNER_LOG_LEVEL",
        choice("debug", "info", "warning", "error"),
        "info",
        "Least severe level that `runnerwsgi serve` and `runner` log.",
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The shared settings, checked. Plain values in, so that no test needs an environment.

    Example::

        Settings(backend="wasm", home=Path("/var/lib/app"), timeout_ms=5000)
        Settings.from_env(os.environ)
    """

    backend: str = "knative"
    plugins: tuple[str, ...] = ()
    base_url: str | None = None
    public_base: str = "/runner"
    execute_mount: str = "/api/ext"
    ui: str = "proxy"
    service_token: Secret | None = None
    service_token_file: Path | None = None
    callback_base: str | None = None
    callback_dir: Path | None = None
    timeout_ms: int = 30_000
    max_body_bytes: int = 1_048_576
    max_response_bytes: int = 4_194_304
    max_asset_bytes: int = 33_554_432
    memory_mb: int = 256
    threads: int = 4
    reserved_threads: int = 2
    max_per_extension: int | None = None
    home: Path = field(default_factory=lambda: default_home())
    database_url: str = ""
    bundle_store: str = ""
    bundle_store_token: Secret | None = None
    bundle_cache_mb: int = 1024
    identity: str | None = None
    identity_header: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    public_origins: tuple[str, ...] = ()
    egress_allow: tuple[str, ...] = ()
    allow_insecure: bool = False
    idempotency_url: str = "memory:"
    idempotency_ttl_s: int = 86_400
    image: str | None = None
    revision: str | None = None
    log_format: str = "text"
    log_level: str = "info"

    def __post_init__(self) -> None:
        self._fill("database_url", f"sqlite:///{self.home / 'runnerwsgi.db'}")
        self._fill("bundle_store", str(self.home / "bundles"))
        if faults := self._contradictions():
            raise ConfigurationError(faults=faults)

    def _fill(self, name: str, value: object) -> None:
        if not getattr(self, name):
            object.__setattr__(self, name, value)

    def _contradictions(self) -> tuple[str, ...]:
        faults = []
        if self.identity == "header" and not (self.identity_header and self.trusted_proxies):
            faults.append(
                "RUNNER_IDENTITY=header needs RUNNER_IDENTITY_HEADER and RUNNER_TRUSTED_PROXIES: "
                "set both, or pass identify= to RunnerMiddleware."
            )
        if _overlap(self.mount, self.execute_mount):
            faults.append(
                f"RUNNER_PUBLIC_BASE and RUNNER_EXECUTE_MOUNT overlap ({self.mount}, "
                f"{self.execute_mount}): give them paths of which neither lies in the other."
            )
        return tuple(faults)

    @property
    def mount(self) -> str:
        """The path part of ``public_base``: where the middleware answers."""
        return urlsplit(self.public_base).path if "://" in self.public_base else self.public_base

    @property
    def slots(self) -> int:
        """How many runner calls may hold a host thread in this process (security §6)."""
        return max(1, self.threads - self.reserved_threads)

    @property
    def fetches(self) -> int:
        """How many UI files may be fetched from remotes at a time: one thread always stays."""
        return max(1, self.threads - self.slots - 1)

    @property
    def slots_per_extension(self) -> int:
        """How many of them one extension may hold."""
        fair = self.slots - 1 if self.slots >= 3 else self.slots
        return min(self.slots, self.max_per_extension or fair)

    def make_home(self) -> None:
        """Make ``RUNNER_HOME``, for its owner only: it holds keys, secrets and machine code.

        Raises:
            StorageError: it cannot be made.
        """
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise StorageError(
                f"RUNNER_HOME: {self.home} cannot be made: {exc.strerror}. "
                "Name a folder that the gateway's user may write to."
            ) from exc

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """The settings of an environment.

        Raises:
            ConfigurationError: with every fault, each naming its variable.
        """
        values, faults = _read(SETTINGS, env)
        given = {row.field: values[row.name] for row in SETTINGS if values[row.name] is not None}
        more: list[str] = []
        if "service_token_file" in given and env.get("RUNNER_SERVICE_TOKEN"):
            more.append(
                "RUNNER_SERVICE_TOKEN and RUNNER_SERVICE_TOKEN_FILE are both set: unset one."
            )
        try:
            if "service_token_file" in given and "service_token" not in given:
                given["service_token"] = read_token(given["service_token_file"])
        except ConfigurationError as exc:
            more += exc.faults
        try:
            settings = cls(**given)
        except ConfigurationError as exc:
            # A variable that is refused already contradicts nothing.
            more += [fault for fault in exc.faults if not any(name in fault for name in faults)]
        if faults or more:
            raise ConfigurationError(faults=(*faults.values(), *more))
        return settings


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def default_home() -> Path:
    """The user's data folder, as the platform has it."""
    import platformdirs

    return Path(platformdirs.user_data_dir("runnerwsgi"))


def read(table: Iterable[Setting], env: Mapping[str, str]) -> dict[str, Any]:
    """The values of a table's variables, by variable; an empty one counts as not set.

    An empty secret is a fault: whoever set it expected one to be there.

    A plugin reads its own ``RUNNER_<NAME>_*`` with this.

    Example::

        read(SETTINGS, env)["RUNNER_ECHO_GREETING"]

    Raises:
        ConfigurationError: with every fault of the table, each naming its variable.
    """
    values, faults = _read(table, env)
    if faults:
        raise ConfigurationError(faults=tuple(faults.values()))
    return values


def _read(
    table: Iterable[Setting], env: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of a table's variables, None for a faulty one; and the faults, by variable."""
    from environs import EnvValidationError

    rows = tuple(table)
    reader = _reader(env)
    values = {row.name: reader.setting(_present(row, env), row.default, row=row) for row in rows}
    faults = {row.name: fault for row in rows if (fault := _settle_alias(row, env))}
    faults |= {row.name: _EMPTY.format(row.name) for row in rows if _is_empty_secret(row, env)}
    try:
        reader.seal()
    except EnvValidationError as exc:
        found = cast("Mapping[str, list[str]]", exc.error_messages)
        faults |= {name: " ".join(messages) for name, messages in found.items()}
    return values, faults


_EMPTY = "{}: set, and empty: unset it, or give it a value, so that nothing runs without it unseen."


def _is_empty_secret(row: Setting, env: Mapping[str, str]) -> bool:
    # Somebody wanted a secret here, and the file or template it should come from had none.
    return row.parse is secret and env.get(row.name) == ""


def _reader(env: Mapping[str, str]) -> Any:
    # environs costs about 70 ms to import: only who reads an environment pays for it.
    from environs import Env, EnvError

    class MappingEnv(Env):
        """environs over the mapping it is given instead of the process's own environment."""

        def _get_value(self, env_key: str, default: Any) -> Any:
            return env.get(env_key) or default

    reader = MappingEnv(eager=False)

    @reader.parser_for("setting")
    def parse(value: Any, row: Setting) -> Any:
        if not isinstance(value, str) or value is row.default:
            return value
        try:
            return row.parse(value)
        except ValueError as exc:
            hidden = row.parse in (secret, credential)
            shown = repr(_SIGNED.sub("//***@", value)[:80])
            found = "a value that is not shown" if hidden else shown
            raise EnvError(f"{row.name}: {exc} (found {found}).") from None

    return reader


def _present(row: Setting, env: Mapping[str, str]) -> str:
    return next((name for name in (row.name, *row.aliases) if env.get(name)), row.name)


def _settle_alias(row: Setting, env: Mapping[str, str]) -> str | None:
    """Warn of a variable's older name; the fault, where both are set and differ."""
    for alias in row.aliases:
        if not env.get(alias):
            continue
        log.warning("%s is an older name: set %s instead.", alias, row.name)
        if env.get(row.name) and env[row.name] != env[alias]:
            return f"{row.name} and its older name {alias} differ: unset {alias}."
    return None


def read_token(file: Path) -> Secret:
    """The service token in *file*.

    Raises:
        ConfigurationError: the file cannot be read, or holds no token.
    """
    try:
        return secret(file.read_text("ascii").strip())
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise ConfigurationError(f"RUNNER_SERVICE_TOKEN_FILE: {file}: {reason}.") from None


# What an image says of itself, for the health of the runner in it.
_TOLD = frozenset({"RUNNER_IMAGE", "RUNNER_REVISION"})


def warn_of_unknown(env: Mapping[str, str], owners: Iterable[str]) -> tuple[str, ...]:
    """Log a warning for each ``RUNNER_*`` variable that nobody reads; give back their names.

    Args:
        env: the environment.
        owners: entry-point names of installed plugins, whose ``RUNNER_<NAME>_*`` are theirs.
    """
    known = {row.name for row in SETTINGS} | _TOLD
    theirs = tuple(f"RUNNER_{name.upper().replace('-', '_')}_" for name in owners)
    unknown = [
        name
        for name in sorted(env)
        if name.startswith("RUNNER_") and name not in known and not name.startswith(theirs)
    ]
    for name in unknown:
        near = difflib.get_close_matches(name, known - _TOLD, n=1)
        hint = f" Did you mean {near[0]}?" if near else " `runnerwsgi env` lists the known ones."
        log.warning("%s is not a setting and has no effect.%s", name, hint)
    return tuple(unknown)


if {row.field for row in SETTINGS} != {item.name for item in fields(Settings)}:
    raise AssertionError("The table of settings and the Settings class name different fields.")
