"""The connector's classes on the engine's interface: nothing of ours gets out, but a step that would be wrong."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from rekindle_plugins.tensorrt_llm.messages import Copy, StepPlan
from rekindle_plugins.tensorrt_llm.worker import LoadError
from trt_samples import data, first, llm_args, request

STREAM = SimpleNamespace(cuda_stream=0)


def test_an_unsupported_engine_runs_as_without_us(connector: Any, model: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "rekindle.tensorrt_llm")
    args = llm_args(model, pipeline_parallel_size=2)
    scheduler, worker = connector.RekindleScheduler(args), connector.RekindleWorker(args)
    assert "pipeline parallelism is not supported" in caplog.text
    worker.register_kv_caches(object())
    worker.register_kv_cache_layout(object())
    assert scheduler.get_num_new_matched_tokens(request(1, range(99)), 0) == (0, False)
    scheduler.update_state_after_alloc(request(1), [1])
    scheduler.update_state_after_alloc_by_layer_group(request(1), [[1], [2]])
    worker.bind_connector_meta(scheduler.build_connector_meta(first(data(1, range(9), [1]))))
    worker.start_load_kv(STREAM)
    worker.wait_for_layer_load(0, STREAM)
    worker.save_kv_layer(0, STREAM)
    worker.wait_for_save(STREAM)
    assert not scheduler.request_finished(request(1), [1])
    assert not scheduler.request_finished_by_layer_group(request(1), [[1], [2]])
    assert worker.get_finished([1, 2], []) == ([1, 2], [])


def test_no_exception_leaves_a_leaders_callback(connector: Any, model: str, caplog: pytest.LogCaptureFixture) -> None:
    for call, answer in (
        (lambda s: s.get_num_new_matched_tokens(None, 0), (0, False)),
        (lambda s: s.update_state_after_alloc(None, None), None),
        (lambda s: s.request_finished(None, None), False),
        (lambda s: s.request_finished_by_layer_group(None, None), False),
        (lambda s: s.request_reset(None), None),
    ):
        scheduler = connector.RekindleScheduler(llm_args(model))
        scheduler._shim._loads = object()
        assert call(scheduler) == answer
    scheduler = connector.RekindleScheduler(llm_args(model))
    scheduler._shim._loads = object()
    assert scheduler.build_connector_meta(None).broken, "claims that cannot be looked up are denounced"
    assert "rekindle is off for this engine start" in caplog.text


def test_a_step_that_would_be_wrong_is_not_run(connector: Any, model: str) -> None:
    worker = connector.RekindleWorker(llm_args(model))
    worker.bind_connector_meta(StepPlan(1, "engine", broken="no blocks"))
    with pytest.raises(LoadError, match="no blocks"):
        worker.start_load_kv(STREAM)
    worker.start_load_kv(STREAM)  # the same plan again: the engine has left it in place
    worker.bind_connector_meta(StepPlan(2, "engine", (Copy(0, 1),)))
    with pytest.raises(LoadError, match="this rank has none"):
        worker.start_load_kv(STREAM)


def test_ended_requests_are_let_go_of_when_the_plugin_is_off(connector: Any, model: str) -> None:
    worker = connector.RekindleWorker(llm_args(model))
    worker._shim._leader = SimpleNamespace(poll=lambda ids: [], guard=SimpleNamespace(turn_off=lambda why: None))
    assert worker.get_finished([1, 2], []) == ([], [])
    worker._guard.turn_off("a test")
    assert sorted(worker.get_finished([3], [])[0]) == [1, 2, 3]
    assert worker.get_finished([], []) == ([], [])


def test_memory_that_cannot_be_shared_turns_both_halves_off(connector: Any, model: str) -> None:
    args = llm_args(model)
    scheduler, worker = connector.RekindleScheduler(args), connector.RekindleWorker(args)
    worker.register_kv_caches(SimpleNamespace(device=SimpleNamespace(type="cpu")))
    assert not worker._guard.is_on
    assert scheduler.get_num_new_matched_tokens(request(1, range(99)), 0) == (0, False)
    assert scheduler.build_connector_meta(first(data(1, range(9), [1]))).copies == ()
