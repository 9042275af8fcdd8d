"""Identities: pages of an engine that differs in one field are not used, and the field is named."""

from __future__ import annotations

from rekindle_plugins.contract.driver import WEIGHTS_FIELD

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.outcome import require


def every_field(bench: Bench) -> None:
    fields = bench.make_engine().changes()
    require(WEIGHTS_FIELD in fields, f"the driver changes {fields or 'nothing'}; {WEIGHTS_FIELD} must be among it")
    sidecar = bench.sidecar()
    prompt = bench.prompt(1)
    for field in fields:
        plain = bench.engine()
        sidecar.when_attached()
        bench.ask(plain, prompt)
        sidecar.when_stored(len(plain.live_pages()), plain.step)
        plain.kill()
        sidecar.when_released()
        changed = bench.engine(field)
        status = sidecar.when_attached()
        ours, others = plain.seen("leader")[0]["identity"], changed.seen("leader")[0]["identity"]
        differing = sorted(name for name in ours.keys() | others.keys() if ours.get(name) != others.get(name))
        require(differing == [field], f"with {field} changed, the identity differs in {differing or 'nothing'}")
        answer = bench.ask(changed, prompt, field)
        require(not answer.cached_tokens, f"pages were used although {field} is another")
        named = status.last_recovery.mismatches if status.last_recovery else ()
        require(any(text.startswith(f"{field}:") for text in named), f"{field} is not named as the reason: {named}")
        changed.kill()
        sidecar.when_released()


CHECKS = (Check("identity", "pages of another identity are not used, and the differing field is named", every_field),)
