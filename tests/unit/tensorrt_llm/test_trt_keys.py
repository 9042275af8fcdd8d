"""Page keys: equal only where tokens, salt and everything else that makes KV are equal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rekindle_plugins.contract.journal import LAZY_ONLY
from rekindle_plugins.tensorrt_llm.keys import PLAIN_ROOT, chain, flags_of, root_of
from trt_samples import request

TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=24)


@given(TOKENS, TOKENS)
def test_keys_are_equal_as_far_as_the_tokens_are(left: list[int], right: list[int]) -> None:
    ours, theirs = chain(PLAIN_ROOT, left, 4, 99), chain(PLAIN_ROOT, right, 4, 99)
    assert len(ours) == len(left) // 4
    for index in range(min(len(ours), len(theirs))):
        end = 4 * (index + 1)
        assert (ours[index] == theirs[index]) == (left[:end] == right[:end])


def test_a_key_is_what_it_was_in_earlier_versions() -> None:
    """Stored pages are found by it: another value loses every store."""
    assert chain(PLAIN_ROOT, [1, 2, 3, 4], 4, 1)[0].hex() == (
        "33ae06ca0c5fb52071ffe15074bd54e2e6edc3e9d995324e9dea11838c7a254a"
    )


def test_salts_separate_and_a_salted_page_is_for_demand_only() -> None:
    plain, a, b = (root_of(request(cache_salt=salt)) for salt in (None, "a", "b"))
    by_id = root_of(request(cache_salt_id=7))
    roots = [plain, a, b, by_id, root_of(request(cache_salt="7")), root_of(request(cache_salt=""))]
    assert len(set(roots)) == len(roots)
    assert plain == PLAIN_ROOT == root_of(request())
    assert (flags_of(PLAIN_ROOT), flags_of(a or b"")) == (0, LAZY_ONLY)


@pytest.mark.parametrize("name", ["lora_task_id", "py_lora_path", "multimodal_hashes", "prompt_embedding_table"])
def test_what_tokens_do_not_tell_is_not_protected(name: str) -> None:
    assert root_of(request(**{name: 0})) is None


def test_a_request_that_does_not_answer_is_not_protected() -> None:
    class Broken:
        @property
        def lora_task_id(self) -> int:
            raise RuntimeError("no such field")

    assert root_of(Broken()) is None
