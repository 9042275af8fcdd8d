"""Contract versions: a plugin runs on hosts of its own version and of higher minors, and refuses all others."""

from __future__ import annotations

from rekindle_plugins.contract.errors import VersionError

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.child.orders import Orders
from rekindle.conformance.outcome import require, wait_for
from rekindle.conformance.probe import Manner

Version = tuple[int, int]


def agreement(bench: Bench) -> None:
    """Both halves say one thing, and hosts of this minor and the next one take it."""
    info = bench.subject.info
    probe = bench.probe()
    for host in (info.api_version, (info.api_version[0], info.api_version[1] + 1)):
        engine = bench.make_engine(Orders(host_version=host))
        engine.start()
        wait_for(f"the shim attaches under host {_text(host)}", lambda: probe.attached, bench.limits.event_s)
        hello = probe.hellos[-1]["plugin"]
        require(hello == info.to_json(), f"the shim calls itself {hello}, the adapter {info.to_json()}")
        engine.kill()
        wait_for("the end of its links", lambda: not probe.attached, bench.limits.event_s)


def refusal_by_the_plugin(bench: Bench) -> None:
    """An older host: both halves name both versions, and nothing is sent."""
    info = bench.subject.info
    host = _older(info.api_version)
    try:
        info.check("the sidecar", host)
    except VersionError as error:
        _require_both(str(error), info.api_version, host, "the adapter half")
    else:
        require(False, f"the adapter half runs on contract {_text(host)} although it was written for a newer one")
    probe = bench.probe()
    engine = bench.make_engine(Orders(host_version=host))
    raised = engine.try_start()
    if raised is None:
        bench.ask(engine, bench.prompt(1))
    else:
        require(raised.kind == "VersionError", f"start raised {raised.text.strip()}")
    require(not probe.hellos, f"the shim said hello from a host of contract {_text(host)}")
    _require_both(raised.text if raised else engine.output(), info.api_version, host, "the shim's log")


def refusal_by_the_sidecar(bench: Bench) -> None:
    """The engine serves, and its log has the sidecar's reason."""
    info = bench.subject.info
    reason = (
        f"it was written for contract {_text(info.api_version)}, the sidecar speaks {_text(_older(info.api_version))}"
    )
    probe = bench.probe(Manner(refusal=VersionError("load", f"plugin {info.name}", reason, "upgrade the sidecar")))
    engine = bench.engine()
    bench.ask(engine, bench.prompt(1))
    wait_for("a hello", lambda: probe.hellos, bench.limits.event_s)
    wait_for(f"the refusal in the engine's log: {reason}", lambda: reason in engine.output(), bench.limits.event_s)


def _require_both(text: str, ours: Version, hosts: Version, where: str) -> None:
    for version in (ours, hosts):
        require(_text(version) in text, f"{where} does not name contract {_text(version)}: {text.strip()[-400:]}")


def _older(version: Version) -> Version:
    return (version[0], version[1] - 1) if version[1] else (version[0] - 1, 9)


def _text(version: Version) -> str:
    return "{}.{}".format(*version)


CHECKS = (
    Check("versions", "the plugin runs on its own contract version and on the next minor", agreement),
    Check("version-refusal", "under an older contract it stays out, and names both versions", refusal_by_the_plugin),
    Check("sidecar-refuses", "an engine whose shim is refused serves, and says why", refusal_by_the_sidecar),
)
