"""An engine process: transformers' continuous batching behind a TCP port, in JSON lines. Knows nothing of Rekindle.

    python lines_engine.py --model FOLDER [--plugin MODULE:FUNCTION]

    a connection     {"prompt": [5, 7, …], "max_tokens": 16}            one line, one request
    its answer       {"tokens": [9]}  …  {"cached_tokens": 32}          tokens as they come, then the end
                     {"error": "…"}                                     instead, or in between

Greedy, and no token ends an answer. `--plugin` names a function that is given the manager before it starts; that is all
that a plugin needs from an engine's program.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import itertools
import json
import logging
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

MAX_LINE_BYTES = 1 << 20
MAX_TOKENS = 1 << 16


def build_manager(args: argparse.Namespace) -> Any:
    """The continuous batching manager over a model on disk, not started."""
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="sdpa")
    return model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=-1),
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=args.num_blocks,
            page_size=args.page_size,
            max_batch_tokens=args.max_batch_tokens,
            auto_switch_to_flash=False,
        ),
    )


def watch_prefix_matches(processor: Any) -> dict[str, int]:
    """How many tokens of each prompt were found in the engine's prefix cache: it knows, but does not report it."""
    matches: dict[str, int] = {}
    search = processor.cache.search_prefix_match

    def search_and_note(request_id: str, prompt_ids: list[int]) -> int:
        found: int = search(request_id, prompt_ids)
        matches.setdefault(request_id, found)
        return found

    processor.cache.search_prefix_match = search_and_note
    return matches


class Server:
    """One connection, one request; the answers come from the manager's thread by way of the event loop."""

    def __init__(self, manager: Any, vocabulary: int, matches: dict[str, int]) -> None:
        self._manager = manager
        self._vocabulary = vocabulary
        self._matches = matches
        self._numbers = itertools.count()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                prompt, max_tokens = self._request(await reader.readline())
            except (ValueError, KeyError, TypeError) as error:
                self._write(writer, error=str(error))
            else:
                await self._generate(writer, prompt, max_tokens)
            await writer.drain()
            writer.close()

    def _request(self, line: bytes) -> tuple[list[int], int]:
        request = json.loads(line)
        prompt, max_tokens = list(request["prompt"]), request["max_tokens"]
        if not prompt or not all(type(token) is int and 0 <= token < self._vocabulary for token in prompt):
            raise ValueError(f"the prompt is no list of token ids below {self._vocabulary}")
        if type(max_tokens) is not int or not 1 <= max_tokens <= MAX_TOKENS:
            raise ValueError(f"max_tokens is not in 1..{MAX_TOKENS}")
        return prompt, max_tokens

    async def _generate(self, writer: asyncio.StreamWriter, prompt: list[int], max_tokens: int) -> None:
        request_id = f"request-{next(self._numbers)}"
        outputs: asyncio.Queue[Any] = asyncio.Queue()
        self._manager.register_result_handler(request_id, outputs.put_nowait)
        self._manager.add_request(prompt, request_id=request_id, max_new_tokens=max_tokens, streaming=True)
        sent = 0
        try:
            while True:
                output = await outputs.get()
                if output.error:
                    self._write(writer, error=output.error)
                    return
                self._write(writer, tokens=output.generated_tokens[sent:])
                sent = len(output.generated_tokens)
                if output.is_finished():
                    self._write(writer, cached_tokens=self._matches.pop(request_id, 0))
                    return
                await writer.drain()
        except ConnectionError:
            self._manager.cancel_request(request_id)

    def _write(self, writer: asyncio.StreamWriter, **fields: object) -> None:
        writer.write(json.dumps(fields).encode() + b"\n")


async def serve(manager: Any, port: int, matches: dict[str, int]) -> None:
    server = Server(manager, int(manager.model.config.vocab_size), matches)
    listener = await asyncio.start_server(server.answer, "127.0.0.1", port, limit=MAX_LINE_BYTES)
    print(f"listening on {listener.sockets[0].getsockname()[1]}", flush=True)
    async with listener:
        await listener.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, default=0, help="0: any; the first line on stdout says which")
    parser.add_argument("--num-blocks", type=int, default=256)
    parser.add_argument("--page-size", type=int, default=16, help="tokens of a block")
    parser.add_argument("--max-batch-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plugin", help="MODULE:FUNCTION, called with the manager")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    torch.set_num_threads(args.threads)
    manager = build_manager(args)
    if args.plugin:
        module, _, function = args.plugin.partition(":")
        getattr(importlib.import_module(module), function)(manager)
    manager.warmup()
    matches = watch_prefix_matches(manager.batch_processor)
    manager.start()
    with manager.pause():
        pass  # the loop has gone round once: whatever a plugin does before the first request is done
    try:
        asyncio.run(serve(manager, args.port, matches))
    except KeyboardInterrupt:
        manager.stop()


if __name__ == "__main__":
    main()
