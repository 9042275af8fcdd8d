"""`python -m nano_engine`: parse, load the plugin, start the engine thread, serve until SIGTERM or SIGINT.

Exit status: 0 after a signal, 1 when the engine thread failed, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import signal
import sys
import time
from pathlib import Path

from nano_engine.engine import Engine, EngineConfig
from nano_engine.hooks import CacheHooks, NoHooks
from nano_engine.loop import EngineLoop
from nano_engine.model import ModelConfig, WeightsError, save_weights
from nano_engine.scheduler import Limits
from nano_engine.server import Server

log = logging.getLogger("nano_engine")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nano_engine", description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: the system picks one, and it is printed")
    parser.add_argument("--pages", type=int, default=EngineConfig.pages)
    parser.add_argument("--page-tokens", type=int, default=EngineConfig.page_tokens)
    parser.add_argument("--layers", type=int, default=ModelConfig.layers)
    parser.add_argument("--heads", type=int, default=ModelConfig.heads)
    parser.add_argument("--head-dim", type=int, default=ModelConfig.head_dim)
    parser.add_argument("--mlp-width", type=int, default=ModelConfig.mlp_width)
    parser.add_argument("--seed", type=int, default=EngineConfig.seed, help="of the random weights")
    parser.add_argument("--weights", type=Path, help="an .npz file to use instead of random weights")
    parser.add_argument("--save-weights", type=Path, help="write the weights to this .npz file and go on")
    parser.add_argument("--step-tokens", type=int, default=Limits.step_tokens, help="tokens one step may compute")
    parser.add_argument("--max-running", type=int, default=Limits.max_running, help="requests served at a time")
    parser.add_argument("--plugin", metavar="MODULE:FACTORY", help="factory(args) gives the CacheHooks")
    return parser.parse_args(arguments)


def load_plugin(args: argparse.Namespace) -> CacheHooks:
    """Call the factory that `--plugin` names. Raises ValueError, ImportError or AttributeError."""
    if args.plugin is None:
        return NoHooks()
    module, colon, factory = args.plugin.partition(":")
    if not colon:
        raise ValueError(f"--plugin {args.plugin}: expected MODULE:FACTORY")
    hooks: CacheHooks = getattr(importlib.import_module(module), factory)(args)
    return hooks


def build_engine(args: argparse.Namespace) -> Engine:
    config = EngineConfig(
        model=ModelConfig(args.layers, args.heads, args.head_dim, args.mlp_width),
        limits=Limits(args.step_tokens, args.max_running),
        pages=args.pages,
        page_tokens=args.page_tokens,
        seed=args.seed,
        weights=args.weights,
    )
    engine = Engine(config, load_plugin(args))
    if args.save_weights:
        save_weights(args.save_weights, engine.weights)
    return engine


async def serve(args: argparse.Namespace, engine: Engine, started: float) -> int:
    event_loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        event_loop.add_signal_handler(number, stop.set)
    engine_loop = EngineLoop(engine, on_end=lambda: event_loop.call_soon_threadsafe(stop.set))
    await asyncio.to_thread(engine_loop.start)
    server = Server(engine_loop)
    port = await server.listen(args.host, args.port)
    print(f"listening on http://{args.host}:{port} after {time.monotonic() - started:.3f} s", flush=True)
    await stop.wait()
    await server.close()
    await asyncio.to_thread(engine_loop.stop)
    if engine_loop.failure is not None:
        log.error("the engine thread failed", exc_info=engine_loop.failure)
        return 1
    return 0


def main() -> int:
    started = time.monotonic()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    # The engine thread hardly lets go of the interpreter; the default of 5 ms would be the server's latency.
    sys.setswitchinterval(0.0005)
    args = parse_arguments()
    try:
        engine = build_engine(args)
    except (ValueError, OSError, WeightsError, ImportError, AttributeError) as error:
        print(f"nano_engine: {error}", file=sys.stderr)
        return 2
    return asyncio.run(serve(args, engine, started))


if __name__ == "__main__":
    sys.exit(main())
