"""Every error has a status, an exit code and a way over the wire."""

from __future__ import annotations

import importlib
import pkgutil

import grpc
import pytest
import rekindle
from rekindle.admin import failure
from rekindle_plugins.contract import errors
from rekindle_plugins.contract.errors import RekindleError
from status_samples import an_error


def every_class(cls: type[RekindleError] = RekindleError) -> list[type[RekindleError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in every_class(sub))]


def test_every_error_class_of_the_repository_has_its_own_mapping() -> None:
    for module in pkgutil.walk_packages(rekindle.__path__, "rekindle."):
        if not module.name.endswith(("__main__", ".demo")):
            importlib.import_module(module.name)
    ours = {cls for cls in every_class() if cls.__module__.startswith("rekindle")}
    assert len(ours) > 10
    assert {cls.code for cls in ours} <= set(failure.OUTSIDE)


@pytest.mark.parametrize("code", list(failure.OUTSIDE))
def test_every_mapped_status_is_one_of_grpcs(code: str) -> None:
    assert grpc.StatusCode[failure.OUTSIDE[code].grpc_status]
    assert failure.OUTSIDE[code].exit is not failure.Exit.OK


def test_an_unmapped_code_is_internal() -> None:
    assert failure.outside(an_error("surprise")) == ("INTERNAL", failure.Exit.INTERNAL)


@pytest.mark.parametrize("code", [*failure.OUTSIDE, "surprise"])
def test_an_error_comes_back_from_details_as_its_own_class(code: str) -> None:
    sent = an_error(code)
    back = failure.from_details(failure.to_details(sent, 13))
    assert back is not None
    assert (back.code, back.op, back.subject, back.problem, back.hint) == (
        code,
        sent.op,
        sent.subject,
        sent.problem,
        sent.hint,
    )
    named = {cls.code: cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, RekindleError)}
    assert type(back) is named.get(code, RekindleError)


@pytest.mark.parametrize("details", [b"", b"\xff\xff\xff"])
def test_details_that_are_not_ours_are_no_error(details: bytes) -> None:
    assert failure.from_details(details) is None


def test_the_explanation_has_the_error_and_the_hint_on_lines_of_their_own() -> None:
    assert failure.explain(an_error()) == (
        "error: restore region r3: checksum mismatch at page 17\nhint: the page was skipped"
    )
    assert "hint" not in failure.explain(RekindleError("a", "b", "c"))
