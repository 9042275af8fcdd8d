"""The parts of ``rekindle debug bundle``: what is asked of whom."""

from __future__ import annotations

import json
import os
import platform
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from rekindle_plugins.contract.errors import ConfigError, RekindleError, UnavailableError
from rekindle_plugins.contract.wire import API_VERSION

from rekindle.cli import debug_facts as facts
from rekindle.cli.debug_bundle import LARGEST_BYTES, Part
from rekindle.cli.redact import known_flags, our_lines
from rekindle.config import SETTINGS, Config, HttpAddress, load
from rekindle.recovery_files import read_reports

_LOG_LINES = 2000
_PACKAGES = (
    *("rekindle", "aiohttp", "click", "cuda-bindings", "grpcio", "grpcio-health-checking", "grpcio-reflection"),
    *("numpy", "prometheus-client", "protobuf", "rich", "uvloop", "xxhash", "torch", "vllm"),
)


@dataclass(frozen=True)
class Scene:
    """One sidecar, running or not. ``pid`` is None where it cannot be told."""

    socket: Path
    run_dir: Path
    config: Config | RekindleError
    log: Path | None
    timeout_s: float
    pid: int | None

    @staticmethod
    def of(socket: Path, config_file: Path | None, log: Path | None, timeout_s: float) -> Scene:
        """Broken settings are no reason for giving up: they may be what the report is about."""
        config: Config | RekindleError
        try:
            config = load({"run_dir": str(socket.parent)}, os.environ, config_file).config
        except ConfigError as error:
            config = error
        return Scene(socket, socket.parent, config, log, timeout_s, facts.listener_pid(socket))

    def settings(self) -> Config:
        """Raises ConfigError."""
        if isinstance(self.config, RekindleError):
            raise self.config
        return self.config

    def process(self) -> int:
        """Raises UnavailableError."""
        if self.pid is None:
            raise UnavailableError("find", "the sidecar's process", "nobody listens at its socket, or not in here")
        return self.pid


def parts(scene: Scene) -> Iterator[Part]:
    """In the order in which they are wanted."""
    yield Part("versions.json", "Rekindle, its contract, Python, packages", _versions)
    yield Part("settings.json", "the settings as this command finds them", lambda: _settings(scene.settings()))
    yield Part("status.json", "what the sidecar says of itself", lambda: _status(scene))
    yield Part("metrics.txt", "one scrape", lambda: _metrics(scene))
    for report in read_reports(scene.run_dir):
        text = _text(report.to_json())
        yield Part(f"recoveries/{report.number}.json", "a recovery report", lambda text=text: text)  # type: ignore[misc]
    yield Part("log.txt", "the sidecar's last log lines, and only its own", lambda: _log(scene))
    yield Part("plugins.json", "plugins found by this command", lambda: _plugins(scene.settings()))
    yield Part("sidecar.json", "the sidecar's process: flags, memory, limits", lambda: _process(scene.process()))
    yield Part("machine.json", "kernel, memory, control group, mounts, GPU driver", lambda: _machine(scene))
    yield Part("store.json", "the store's files: names and sizes", lambda: _store(scene.settings().store_dir))


def _text(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def _versions() -> str:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    contract = ".".join(map(str, API_VERSION))
    return _text({"contract": contract, "python": platform.python_version(), "packages": found})


def _settings(config: Config) -> str:
    known = {setting.env for setting in SETTINGS}
    others = sorted(name for name in os.environ if name.startswith("REKINDLE_") and name not in known)
    values = {name: list(value) if isinstance(value, frozenset) else value for name, value in asdict(config).items()}
    return _text({"settings": values, "other_environment_names": others})


def _status(scene: Scene) -> str:
    from rekindle.admin.client import AdminClient

    with AdminClient(scene.socket, scene.timeout_s) as client:
        return _text(client.status().to_json())


def _metrics(scene: Scene) -> str:
    """Where the sidecar really listens counts before what its settings seem to be."""
    config = scene.config
    told = [config.http] if isinstance(config, Config) and config.http is not None and config.http.port else []
    addresses = facts.listening(scene.pid) if scene.pid is not None else told
    problem = "the sidecar is not there" if scene.pid is None else "HTTP is switched off"
    for address in addresses:
        try:
            return _scrape(address, scene.timeout_s)
        except (OSError, ValueError) as error:
            problem = f"{address.host}:{address.port}: {error}"
    raise UnavailableError("scrape", "the metrics", problem)


def _scrape(address: HttpAddress, timeout_s: float) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{host}:{address.port}/metrics", timeout=timeout_s) as answer:
        text = str(answer.read(LARGEST_BYTES).decode(errors="replace"))
    if "rekindle_info" not in text:
        raise ValueError("what answers there is no sidecar")
    return text


def _log(scene: Scene) -> str:
    path = scene.log or facts.log_file(scene.process())
    if path is None:
        problem = "the sidecar's log is no file"
        raise ConfigError("find", "the log", problem, "give it with --log, or attach what your log collector has")
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LARGEST_BYTES))
        lines = file.read(LARGEST_BYTES).decode(errors="replace").splitlines()
    ours, others = our_lines(lines)
    return "\n".join([f"# {others} lines that are not the sidecar's were left out", *ours[-_LOG_LINES:], ""])


def _plugins(config: Config) -> str:
    from rekindle.backends import discover

    backends = discover(config.plugin_dirs)
    try:
        found = [
            {"name": each.name, "source": each.source, "loaded": each.adapter is not None, "problem": each.problem}
            for each in backends.found
        ]
    finally:
        backends.close()
    return _text(found)


def _process(pid: int) -> str:
    return _text({"flags": known_flags(facts.arguments(pid)), **facts.process(pid)})


def _machine(scene: Scene) -> str:
    paths = [scene.run_dir, Path("/dev/shm")]
    if isinstance(scene.config, Config):
        paths.append(scene.config.store_dir)
    return _text(facts.machine(scene.pid or os.getpid(), paths))


def _store(directory: Path) -> str:
    entries = []
    for path in sorted(directory.iterdir())[:256]:
        found = path.lstat()
        entries.append({"name": path.name, "bytes": found.st_size, "held_bytes": 512 * found.st_blocks})
    return _text({"directory": str(directory), "files": entries})
