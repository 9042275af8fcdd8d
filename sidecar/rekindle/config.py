"""The sidecar's settings, read once at the edge: flags over environment over a TOML file over defaults.

Runs in the CLI before the keeper is made; everything below is handed the frozen ``Config``. ``SETTINGS`` is the
one table of what can be set: the flag, the environment variable and the file key are all made from a row's name
(``store_size``: ``--store-size``, ``REKINDLE_STORE_SIZE``, ``store_size = "2GiB"``).
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rekindle_plugins.contract.errors import ConfigError

from rekindle.toml import nearest, read_toml

ENV_PREFIX = "REKINDLE_"
PROXY_API_KEY = "REKINDLE_PROXY_API_KEY"
"""The engine's API key itself. No setting, because a setting can stand on a command line, and is shown."""
OTHER_ENVIRONMENT = frozenset({"REKINDLE_CONFIG", "REKINDLE_SOCKET", PROXY_API_KEY})
"""Names of ours that are not settings of the sidecar: also the settings file's path, and the admin socket to ask."""

# Kubernetes puts these into every pod when a Service is called "rekindle" or "rekindle-…".
_SERVICE_LINK = re.compile(r"REKINDLE_(?:.*_)?(?:SERVICE_(?:HOST|PORT)|PORT)(?:_.*)?")
_LONGEST_SOCKET_PATH = 107
"""Bytes in ``sockaddr_un.sun_path`` on Linux, less the terminating zero."""

SLOWEST_BANDWIDTH = 64 << 20
"""Below this a packet of pages would take longer than a copier may be silent."""


class HttpAddress(NamedTuple):
    """Where health and metrics are served. Port 0 asks the kernel for a free one."""

    host: str
    port: int


DEFAULT_HTTP = HttpAddress("127.0.0.1", 9470)


class ProxyRoute(NamedTuple):
    """Where the stream proxy listens, and the engine's address behind it (``http://host:port``)."""

    listen: HttpAddress
    engine_url: str


@dataclass(frozen=True)
class Config:
    """What one sidecar runs with. ``http`` is None where HTTP is switched off."""

    run_dir: Path
    store_dir: Path
    store_size_bytes: int = 2 << 30
    http: HttpAddress | None = DEFAULT_HTTP
    restore_budget_s: float = 10.0
    salvage_budget_s: float = 0.25
    fill_timeout_s: float = 5.0
    copier_timeout_s: float = 5.0
    copy_bandwidth: int = 0
    """Cap on checkpointing, in bytes per second of each rank; 0 is none. Salvage and restore are never held back."""
    hang_timeout_s: float = 30.0
    """The least time that an engine may have work and make no step before it counts as hung; 0: it never does."""
    allow_uids: frozenset[int] = field(default_factory=lambda: frozenset({os.geteuid()}))
    proxy: ProxyRoute | None = None
    """None: no stream proxy."""
    proxy_wait_s: float = 300.0
    proxy_drain_s: float = 15.0
    """How long streams may go on when the sidecar is asked to end. A container has 30 s for its end by default."""
    proxy_api_key_file: Path | None = None
    """Holds the engine's API key, for the proxy's own questions. None: the environment's, see ``PROXY_API_KEY``."""
    proxy_seeds: bool = True
    """The proxy gives a seed to requests that are sampled and have none, so that their answers can be repeated."""
    plugin_dirs: tuple[Path, ...] = ()
    """Directories with one folder a plugin; of two plugins of one name the later one wins."""
    log_level: str = "info"
    log_json: bool = False

    @property
    def attach_socket(self) -> Path:
        """Where engines attach."""
        return self.run_dir / "attach.sock"

    @property
    def admin_socket(self) -> Path:
        """Where the admin API answers."""
        return self.run_dir / "admin.sock"


def parse_size(value: object) -> int:
    """Bytes from ``2147483648``, ``"2GiB"``, ``"512MiB"`` or ``"8Gi"`` (1024) and ``"2GB"``, ``"2G"`` (1000)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?))?B?", str(value).strip(), re.IGNORECASE)
    if match is None or isinstance(value, bool):
        raise ValueError("is not a size such as 2GiB or 512MiB")
    number, unit, binary = match.groups()
    base = 1024 if binary else 1000
    size = int(float(number) * base ** ("KMGT".index(unit.upper()) + 1)) if unit else int(float(number))
    if not 1 << 16 <= size <= 1 << 50:
        raise ValueError("is not between 64KiB and 1024TiB")
    return size


def parse_bandwidth(value: object) -> int:
    """Bytes per second as ``parse_size`` reads them (``"2GB"``, also ``"2GB/s"``), or 0 for no cap."""
    text = str(value).strip().removesuffix("/s")
    if text == "0":
        return 0
    try:
        bandwidth = parse_size(text)
    except ValueError:
        bandwidth = 0
    if bandwidth < SLOWEST_BANDWIDTH:
        raise ValueError("is neither 0 nor a bandwidth of at least 64MiB such as 4GB (a second)")
    return bandwidth


def parse_duration(value: object) -> float:
    """Seconds from ``10``, ``"10"``, ``"10s"``, ``"250ms"`` or ``"2m"``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m)?", str(value).strip())
    if match is None:
        raise ValueError("is not a time such as 250ms, 10s or 10")
    seconds = float(match[1]) * {"ms": 0.001, "m": 60.0}.get(match[2], 1.0)
    if not math.isfinite(seconds) or seconds > 3600:
        raise ValueError("is longer than an hour")
    return seconds


def parse_http(value: object) -> HttpAddress | None:
    """``host:port``, ``[v6]:port``, ``:port`` (on 127.0.0.1) or ``off``."""
    text = str(value).strip()
    if value is False or text.lower() == "off":  # YAML-minded people write `http = false`
        return None
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.%\w]+)\]|([^:\[\]\s]*)):(\d{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError("is not host:port (port 0 to 65535), or off")
    return HttpAddress(match[1] or match[2] or DEFAULT_HTTP.host, int(match[3]))


def parse_proxy(value: object) -> ProxyRoute | None:
    """``LISTEN=ENGINE_URL``, as ``0.0.0.0:8001=http://127.0.0.1:8000``, or ``off``."""
    text = str(value).strip()
    if value is False or text.lower() == "off":
        return None
    listen, equals, url = text.partition("=")
    match = re.fullmatch(r"http://(?:\[[0-9a-fA-F:.%\w]+\]|[^\s:/?#@\[\]]+)(?::(\d{1,5}))?/?", url)
    if not equals or match is None or int(match[1] or 80) > 65535:
        raise ValueError("is not LISTEN=ENGINE_URL, such as 0.0.0.0:8001=http://127.0.0.1:8000, or off")
    address = parse_http(listen)
    if address is None:
        raise ValueError("does not say where to listen: host:port=http://…")
    return ProxyRoute(address, url.rstrip("/"))


def _parse_path(value: object) -> Path:
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise ValueError("is not a path")
    # Absolute, because children and messages use it under other working directories.
    return Path(os.path.abspath(os.path.expanduser(value)))


def _parse_paths(value: object) -> tuple[Path, ...]:
    items: Iterable[object] = value if isinstance(value, list | tuple) else str(value).split(os.pathsep)
    return tuple(_parse_path(item) for item in items if item != "")


def _parse_uids(value: object) -> frozenset[int]:
    items: Iterable[object] = value if isinstance(value, list | tuple) else str(value).split(",")
    texts = [str(item).strip() for item in items]
    if not texts or not all(text.isascii() and text.isdecimal() for text in texts):
        raise ValueError("is not a list of user ids such as 1000,1001")
    return frozenset(int(text) for text in texts)


def _parse_level(value: object) -> str:
    level = str(value).strip().lower()
    if level not in ("debug", "info", "warning", "error"):
        raise ValueError("is not one of debug, info, warning, error")
    return level


def _parse_bool(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    try:
        return words[str(value).strip().lower()]
    except KeyError:
        raise ValueError("is not true or false") from None


@dataclass(frozen=True)
class Setting:
    """One row: the outside name, the ``Config`` field, the parser (raises ValueError), and a line for ``--help``."""

    name: str
    field: str
    parse: Callable[[object], Any]
    help: str
    is_switch: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper()


SETTINGS: tuple[Setting, ...] = (
    Setting("run_dir", "run_dir", _parse_path, "Sockets, lock. Default: $XDG_RUNTIME_DIR/rekindle or /run/rekindle."),
    Setting("store_dir", "store_dir", _parse_path, "Memory-backed folder of arenas. Default: /dev/shm/rekindle-UID."),
    Setting("store_size", "store_size_bytes", parse_size, "Node memory for checkpointed pages. Default: 2GiB."),
    Setting("http", "http", parse_http, "Health and metrics: host:port, :0 or off. Default: 127.0.0.1:9470."),
    Setting("restore_budget", "restore_budget_s", parse_duration, "Time to restore before serving. Default: 10s."),
    Setting("salvage_budget", "salvage_budget_s", parse_duration, "Time to read a dead engine. Default: 250ms."),
    Setting("fill_timeout", "fill_timeout_s", parse_duration, "Time for one fill into an engine. Default: 5s."),
    Setting("copier_timeout", "copier_timeout_s", parse_duration, "Time before a copier is killed. Default: 5s."),
    Setting("copy_bandwidth", "copy_bandwidth", parse_bandwidth, "Cap on checkpointing, bytes/s. Default: none."),
    Setting("hang_timeout", "hang_timeout_s", parse_duration, "Work without a step: a hang. 0: off. Default: 30s."),
    Setting("allow_uids", "allow_uids", _parse_uids, "User ids that may attach, comma separated. Default: our own."),
    Setting(
        "proxy", "proxy", parse_proxy, "Stream proxy: LISTEN=ENGINE_URL, :8001=http://127.0.0.1:8000. Default: none."
    ),
    Setting("proxy_wait", "proxy_wait_s", parse_duration, "Time a request may wait for an engine. Default: 5m."),
    Setting("proxy_drain", "proxy_drain_s", parse_duration, "Time for streams to end at a stop. Default: 15s."),
    Setting("proxy_api_key_file", "proxy_api_key_file", _parse_path, "File with the engine's API key. Default: none."),
    Setting("proxy_seeds", "proxy_seeds", _parse_bool, "Give sampled requests a seed. Default: true."),
    Setting("plugin_dir", "plugin_dirs", _parse_paths, "Directories of plugins, ':' between them. Default: none."),
    Setting("log_level", "log_level", _parse_level, "debug, info, warning or error. Default: info."),
    Setting("log_json", "log_json", _parse_bool, "Log JSON lines instead of key=value.", is_switch=True),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}


class Loaded(NamedTuple):
    """The settings, and what the operator should be told about where they came from."""

    config: Config
    warnings: tuple[str, ...]


def load(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None) -> Loaded:
    """Settle every setting. Reads ``file`` (or ``$REKINDLE_CONFIG``) and nothing else.

    Args:
        flags: by setting name; None means not given.
        environ: the process environment, or a stand-in.
        file: a TOML file that must exist.

    Raises:
        ConfigError: an unknown key, a malformed value, or values that contradict each other.
    """
    if file is None and environ.get("REKINDLE_CONFIG"):
        file = Path(environ["REKINDLE_CONFIG"])
    from_file = _read_file(file) if file is not None else {}
    settled: dict[str, Any] = {
        "run_dir": default_run_dir(environ),
        "store_dir": Path(f"/dev/shm/rekindle-{os.geteuid()}"),
    }
    for setting in SETTINGS:
        if flags.get(setting.name) is not None:
            source, value = f"flag {setting.flag}", flags[setting.name]
        elif environ.get(setting.env, "") != "":
            source, value = f"environment {setting.env}", environ[setting.env]
        elif setting.name in from_file:
            source, value = f"file {file}, key {setting.name}", from_file[setting.name]
        else:
            continue
        try:
            settled[setting.field] = setting.parse(value)
        except ValueError as error:
            raise ConfigError("read", source, f"{value!r} {error}", f"{setting.flag}: {setting.help}") from None
    config = Config(**settled)
    _check(config)
    return Loaded(config, _unknown_environment(environ))


def default_run_dir(environ: Mapping[str, str]) -> Path:
    """``$XDG_RUNTIME_DIR/rekindle`` where there is such a folder of the user's own, else ``/run/rekindle``."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime, "rekindle") if os.path.isabs(runtime) else Path("/run/rekindle")


def _check(config: Config) -> None:
    length = len(os.fsencode(config.attach_socket))
    if length > _LONGEST_SOCKET_PATH:
        problem = f"socket paths in it would be {length} bytes long, Linux takes {_LONGEST_SOCKET_PATH}"
        raise ConfigError("use", f"run_dir {config.run_dir}", problem, "choose a shorter --run-dir")
    if config.store_dir == config.run_dir:
        raise ConfigError("use", f"store_dir {config.store_dir}", "it is run_dir too", "give each a folder of its own")
    if config.copier_timeout_s == 0 or config.fill_timeout_s == 0:
        raise ConfigError("use", "fill_timeout and copier_timeout", "0 leaves no time to copy anything", "try 5s")


def _read_file(path: Path) -> Mapping[str, object]:
    content = read_toml(path)
    for key in content:
        if key not in _BY_NAME:
            raise ConfigError("read", f"file {path}", f"unknown key {key!r}", nearest(key, _BY_NAME))
    return content


def _unknown_environment(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Warned about, not refused: the environment is shared with programs that we do not know."""
    known = {setting.env for setting in SETTINGS} | OTHER_ENVIRONMENT
    strange = [name for name in sorted(environ) if name.startswith(ENV_PREFIX) and name not in known]
    return tuple(
        f"environment {name} is not a setting; {nearest(name, known)}"
        for name in strange
        if not _SERVICE_LINK.fullmatch(name)
    )


def make_run_dir(config: Config) -> tuple[str, ...]:
    """Make ``run_dir`` private to us (0700), and return warnings where it cannot be.

    Where other users may attach, it is 0711: they have to reach the socket, and need not see what else is there. A
    folder of root's is taken as it is, because a pod's shared volume belongs to root; anyone else's is refused.

    Raises:
        ConfigError: it cannot be made, is not a folder, or is another user's. Nothing is left behind.
    """
    path, subject, hint = config.run_dir, f"run_dir {config.run_dir}", "choose a folder of your own with --run-dir"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
        if found.st_uid == os.geteuid():
            path.chmod(0o711 if config.allow_uids - {os.geteuid(), 0} else 0o700)
            return ()
    except OSError as error:
        raise ConfigError("make", subject, error.strerror or str(error), hint) from None
    if found.st_uid != 0:
        raise ConfigError("use", subject, f"it belongs to user {found.st_uid}, we are {os.geteuid()}", hint)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return (f"run_dir {path} is root's and others may write to it: fine for a pod's own volume, nowhere else",)
    return ()
