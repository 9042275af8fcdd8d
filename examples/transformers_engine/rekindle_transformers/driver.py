"""The driver: the engine's smallest real use, for `rekindle plugin test` (`contract.driver`).

A small Llama with seeded weights, and the manager's own processor, whose loop is turned by hand: transformers would run
it on a thread of its own.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

from rekindle_plugins.contract.driver import Answer, EngineFacts

from rekindle_transformers.protection import Protection, protect

PAGE_TOKENS = 16
PAGES = 48
BATCH_TOKENS = 32
CONTEXT_TOKENS = 256
VOCABULARY = 512


class TransformersDriver:
    """See `contract.driver.Driver`."""

    changes = ("model_files", "model_config", "geometry")

    def start(self, change: str) -> EngineFacts:
        import torch

        torch.set_num_threads(1)
        self._manager = _manager(change)
        self._protection: Protection = protect(self._manager)
        self._processor = self._manager._create_batch_processor()
        self._manager.batch_processor = self._processor
        self._cached = _watch_prefix_matches(self._processor)
        self._answers: dict[str, Answer] = {}
        self._unfinished: set[str] = set()
        self.step()
        allocator = self._processor.cache.cache_allocators["full_attention"]
        page_count = self._processor.cache.cache_tensor.nbytes // allocator.bytes_per_block
        return EngineFacts(
            int(allocator.tokens_per_page), page_count, int(allocator.num_blocks), CONTEXT_TOKENS, VOCABULARY
        )

    def submit(self, request_id: str, tokens: Sequence[int], max_tokens: int) -> None:
        self._unfinished.add(request_id)
        self._manager.add_request(list(tokens), request_id=request_id, max_new_tokens=max_tokens)

    def step(self) -> bool:
        if self._processor.prepare_next_batch():
            self._manager._generation_step()
            self._processor.update_batch()
        self._take_outputs()
        return bool(self._unfinished)

    def answer(self, request_id: str) -> Answer:
        return self._answers.pop(request_id)

    def reset_cache(self) -> None:
        self._processor.cache.reset()

    def close(self) -> None:
        self._protection.close()

    def _take_outputs(self) -> None:
        while True:
            try:
                output = self._manager.output_router.output_queue.get_nowait()
            except queue.Empty:
                return
            if output.error:
                raise RuntimeError(f"request {output.request_id}: {output.error}")
            self._unfinished.discard(output.request_id)
            self._answers[output.request_id] = Answer(
                tuple(output.generated_tokens), self._cached.pop(output.request_id, 0)
            )


def _manager(change: str) -> Any:
    import torch
    from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=CONTEXT_TOKENS,
        rms_norm_eps=0.1 if change == "model_config" else 1e-6,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(1 if change == "model_files" else 0)
    model = LlamaForCausalLM(config).to(torch.float32)
    return model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=-1),
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=PAGES,
            page_size=PAGE_TOKENS // 2 if change == "geometry" else PAGE_TOKENS,
            max_batch_tokens=BATCH_TOKENS,
            auto_switch_to_flash=False,
        ),
    )


def _watch_prefix_matches(processor: Any) -> dict[str, int]:
    """How many tokens of each prompt the engine found in its prefix cache: it knows, but does not report it."""
    found: dict[str, int] = {}
    search = processor.cache.search_prefix_match

    def search_and_note(request_id: str, prompt_ids: list[int]) -> int:
        count: int = search(request_id, prompt_ids)
        found.setdefault(request_id, count)
        return count

    processor.cache.search_prefix_match = search_and_note
    return found
