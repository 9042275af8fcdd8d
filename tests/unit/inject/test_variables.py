"""Variables of a script's shell: what they hold is not known, so nothing is put in its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rekindle.backends import Backends, discover
from rekindle.inject import Options, Outcome, Rewritten
from rekindle.inject.documents import Document
from rekindle.inject.rewrite import inject_object


@pytest.fixture(scope="module")
def backends() -> Backends:
    return discover()


def tried(script: str, backends: Backends, env: dict[str, str] | None = None, **changes: Any) -> tuple[str, Rewritten]:
    """What became of the script."""
    variables = [{"name": name, "value": value} for name, value in (env or {}).items()]
    container = {"name": "e", "image": "i", "command": ["sh", "-c", script], "env": variables}
    document = Document("", {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}})
    (done,), _ = inject_object(document, Options(**{"image": "r:1", "version": "1", **changes}), backends)
    return str(document.node["spec"]["containers"][0]["command"][2]), done


@pytest.mark.parametrize("word", ["$EXTRA", "${EXTRA}"])
def test_a_variable_that_may_be_flags_is_refused_with_the_recipe_which_leads_on(word: str, backends: Backends) -> None:
    script = f'exec vllm serve "$MODEL" {word}'
    after, done = tried(script, backends)
    assert (after, done.outcome) == (script, Outcome.REFUSED)
    assert f"{word} in its script may hold flags" in done.notes[0]
    assert f'quote it ("{word}")' in done.notes[1]
    assert "behind it: --kv-transfer-config '{" in done.notes[1]
    assert tried(f'exec vllm serve "$MODEL" "{word}"', backends)[1].outcome is Outcome.INJECTED
    assert tried(script, backends, {"EXTRA": "x"})[1].outcome is Outcome.INJECTED
    by_hand = script + done.notes[1].partition("behind it:")[2]
    after, done = tried(by_hand, backends)
    assert (after, done.outcome) == (by_hand, Outcome.INJECTED)


def test_for_the_proxy_it_may_also_hold_the_port(backends: Backends) -> None:
    script = 'vllm serve m --port 8000 $EXTRA --kv-transfer-config \'{"kv_connector":"RekindleConnector"}\''
    assert tried(script, backends)[1].outcome is Outcome.INJECTED
    after, done = tried(script, backends, proxy=True)
    assert (after, done.outcome) == (script, Outcome.REFUSED)
    assert "REKINDLE_PROXY" in done.notes[1]


def test_a_configuration_with_a_variable_in_it_is_not_frozen(backends: Backends) -> None:
    config = json.dumps({"kv_connector": "NixlConnector", "engine_id": "$POD_NAME"}, separators=(",", ":"))
    escaped = config.replace('"', '\\"')
    script = f'exec vllm serve m --kv-transfer-config "{escaped}"'
    after, done = tried(script, backends)
    assert (after, done.outcome) == (script, Outcome.REFUSED)
    assert "has a variable of the shell's in it" in done.notes[0]
    assert "MultiConnector" in done.notes[1]
    after, done = tried(f"exec vllm serve m --kv-transfer-config '{config}'", backends)
    assert done.outcome is Outcome.INJECTED, "in single quotes it is a dollar"
    assert "$POD_NAME" in after
