"""Running checks, one after the other, each on a bench of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rekindle_plugins.contract.errors import RekindleError

from rekindle.conformance.bench import Bench, Reference
from rekindle.conformance.check import Check
from rekindle.conformance.engine import EngineDiedError
from rekindle.conformance.outcome import BrokenPromiseError, Limits, NotApplicableError, Outcome, Verdict
from rekindle.conformance.subject import Subject


def run(subject: Subject, checks: Sequence[Check], limits: Limits | None = None) -> Iterator[Outcome]:
    """One outcome a check, as it is known. Whatever a check started is gone when its outcome is given."""
    limits = limits or Limits()
    reference = Reference(subject, limits)
    try:
        for check in checks:
            began = time.monotonic()
            verdict, seen = _judge(check, subject, limits, reference)
            yield Outcome(check.name, check.promise, verdict, seen, time.monotonic() - began)
    finally:
        reference.close()


def _judge(check: Check, subject: Subject, limits: Limits, reference: Reference) -> tuple[Verdict, str]:
    try:
        with Bench(subject, limits, reference) as bench:
            check.run(bench)
            bench.require_clean()
    except NotApplicableError as error:
        return Verdict.NOT_APPLICABLE, str(error)
    except (BrokenPromiseError, EngineDiedError) as error:
        return Verdict.FAILED, str(error)
    except RekindleError as error:
        return Verdict.FAILED, f"the kit could not do its part: {error}"
    return Verdict.PASSED, ""
