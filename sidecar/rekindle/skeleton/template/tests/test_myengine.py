"""The plugin's own tests: what the conformance kit cannot know. Run them with pytest, and the kit by
`rekindle plugin test` on the plugin's folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rekindle_plugins.contract import ConfigError, Launch

sys.path.insert(0, str(Path(__file__).parents[1]))

from rekindle_myengine.adapter import MyEngineAdapter
from rekindle_myengine.engine import TinyEngine
from rekindle_myengine.shim import MyEngineShim

PROMPT = list(range(30))


def answer(engine: TinyEngine) -> list[int]:
    engine.submit("r", PROMPT, 8)
    while engine.step():
        pass
    return engine.done.pop("r").tokens[len(PROMPT) :]


def make_engine(run_dir: Path) -> TinyEngine:
    engine = TinyEngine(b"weights", 24, 4, MyEngineShim(str(run_dir)))
    engine.start()
    return engine


def test_without_a_sidecar_the_engine_serves(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    first = answer(engine)
    assert len(first) == 8
    assert answer(engine) == first, "from its cache"
    engine.close()


def test_other_weights_are_another_identity(tmp_path: Path) -> None:
    digests = set()
    for weights in (b"one", b"two"):
        shim = MyEngineShim(str(tmp_path))
        shim.initialize(TinyEngine(weights, 24, 4, shim))
        digests.add(shim._identity.digest)
        shim.finalize()
    assert len(digests) == 2


def test_the_engines_command_gets_the_plugin_once() -> None:
    adapter = MyEngineAdapter()
    launch = Launch(("myengine", "--port", "8000"))
    assert adapter.recognises(launch)
    wired = adapter.wire(launch).launch
    assert wired.words == (*launch.words, *adapter.flags())
    assert adapter.wire(wired).launch == wired


def test_a_script_for_a_shell_is_refused_with_the_recipe() -> None:
    with pytest.raises(ConfigError, match="--plugin"):
        MyEngineAdapter().wire(Launch(("sh", "-c", "myengine")))
