"""Tables from deltas, fences, and what is announced when: the leader's half, driven step by step without a sidecar."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rekindle_plugins.client.leader import Leader
from rekindle_plugins.tensorrt_llm.loads import Offer
from rekindle_plugins.tensorrt_llm.scheduler import LeaderShim
from rekindle_plugins.tensorrt_llm.support import UnsupportedError
from rekindle_plugins.tensorrt_llm.tables import Owners, RequestTable
from trt_samples import data, first, later, leader_shim, request


@pytest.fixture
def shim(model: str) -> LeaderShim:
    return leader_shim(model)


@pytest.fixture
def leader(shim: LeaderShim) -> Leader:
    assert shim.leader is not None
    return shim.leader


def live(leader: Leader) -> list[int]:
    return [page for page in range(leader.config.page_count) if leader.is_live(page)]


def test_a_prompts_pages_are_announced_when_its_first_token_is_known(shim: LeaderShim, leader: Leader) -> None:
    shim.on_allocated_for(request(1))
    shim.follow(first(data(1, range(10), [5, 6, 7])), {})
    assert live(leader) == []
    shim.follow(later(data(1, [], [])), {})  # the overlap scheduler's second step brings nothing
    assert live(leader) == []
    shim.follow(later(data(1, [10], [])), {})
    assert live(leader) == [5, 6]
    shim.follow(later(data(1, [11], [])), {})  # its KV is being written: the page is not complete
    assert live(leader) == [5, 6]
    shim.follow(later(data(1, [12], [8])), {})
    assert live(leader) == [5, 6, 7]


def test_a_chunked_prompt_waits_for_its_last_chunk_and_takes_blocks_as_they_come(
    shim: LeaderShim, leader: Leader
) -> None:
    shim.on_allocated_for(request(1))
    shim.follow(first(data(1, range(12), [1])), {})
    shim.follow(later(data(1, [], [2], groups=[[2]])), {})
    shim.follow(later(data(1, [], [], groups=[[3]])), {})
    assert live(leader) == []
    shim.follow(later(data(1, [12], [4])), {})
    assert live(leader) == [1, 2, 3]


def test_a_request_that_is_cancelled_before_its_first_token_leaves_nothing(shim: LeaderShim, leader: Leader) -> None:
    shim.on_allocated_for(request(1))
    shim.follow(first(data(1, range(10), [5, 6, 7])), {})
    assert not shim.on_finished(request(1, range(10)))
    assert live(leader) == []


def test_new_blocks_are_fenced_off_and_found_ones_are_not(shim: LeaderShim, leader: Leader) -> None:
    before = [leader.epoch(page) for page in range(8)]
    shim.follow(first(data(1, range(20), [1, 2, 3, 4, 5], computed=8)), {})
    assert [leader.epoch(page) - before[page] for page in range(8)] == [0, 0, 0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("computed", [4, 12])
def test_what_was_claimed_is_fenced_off_whether_or_not_it_counts_as_computed(
    shim: LeaderShim, leader: Leader, computed: int
) -> None:
    shim.follow(first(data(1, range(20), [1, 2, 3, 4, 5], computed=computed)), {1: 1})
    assert [leader.epoch(page) for page in range(1, 6)] == [0, 1, 1, 1, 1]


def test_a_bad_page_keeps_its_place_and_is_never_touched(shim: LeaderShim, leader: Leader) -> None:
    shim.on_allocated_for(request(1))
    shim.follow(first(data(1, range(12), [-1, 6, 7])), {})
    shim.follow(later(data(1, [12], [-1])), {})
    assert live(leader) == [6, 7]
    assert leader.epoch(31) == 0, "-1 is not the last page"


def test_a_shared_block_stays_until_its_last_holder_has_ended(shim: LeaderShim, leader: Leader) -> None:
    for request_id, computed in ((1, 0), (2, 8)):
        shim.on_allocated_for(request(request_id))
        shim.follow(first(data(request_id, range(8), [1, 2, 3 + request_id], computed)), {})
        shim.follow(later(data(request_id, [9], [])), {})
    assert live(leader) == [1, 2]
    shim.on_finished(request(1, [*range(8), 9]))
    assert live(leader) == [1, 2]
    shim.on_finished(request(2, [*range(8), 9]))
    assert live(leader) == []


def test_the_last_tokens_come_with_the_requests_end(shim: LeaderShim, leader: Leader) -> None:
    """Its blocks are kept until they are copied: without a sidecar, not at all."""
    shim.on_allocated_for(request(1))
    shim.follow(first(data(1, range(8), [1, 2])), {})
    leader.link.linked.set()
    assert shim.on_finished(request(1, [*range(8), 8]))
    assert live(leader) == [1, 2]
    assert shim.poll([1]) == []
    leader.link.linked.clear()
    assert shim.poll([]) == [1]
    assert live(leader) == []


def test_ended_requests_are_named_one_at_a_time(shim: LeaderShim) -> None:
    assert [shim.poll([3, 4]), shim.poll([]), shim.poll([])] == [[3], [4], []]


def test_a_request_that_begins_again_has_a_new_table(shim: LeaderShim, leader: Leader) -> None:
    shim.on_allocated_for(request(1))
    shim.follow(first(data(1, range(8), [1, 2])), {})
    shim.follow(later(data(1, [8], [3])), {})
    shim.on_reset(request(1))
    assert live(leader) == []
    shim.on_allocated_for(request(1))
    shim.follow(first(data(1, range(9), [4, 5, 6])), {})
    assert live(leader) == [], "what was generated before is prompt now, and not computed yet"
    shim.follow(later(data(1, [9], [])), {})
    assert live(leader) == [4, 5]


def test_several_layer_groups_are_refused_when_they_turn_up(shim: LeaderShim) -> None:
    with pytest.raises(UnsupportedError, match="2 layer groups"):
        shim.follow(first(data(1, range(8), [], groups=[[1, 2], [1, 2]])), {})


def test_tokens_that_are_not_those_of_the_deltas_are_not_believed() -> None:
    table = RequestTable(bytes(32), "1", 4, [1, 2, 3, 4, 5])
    assert not table.take_all_tokens([1, 2, 3, 9, 5, 6])
    assert table.take_all_tokens([1, 2, 3, 4, 5, 6])
    table.add_pages([1, 2], lambda page: page)
    assert table.complete_pages(4) == 1


def test_owners_count_holders() -> None:
    owners = Owners()
    owners.add([1, 2, -1])
    owners.add([2])
    assert owners.drop([1, 2, -1]) == [1]
    assert owners.drop([2]) == [2]


def test_a_claim_without_its_blocks_breaks_the_step(shim: LeaderShim, model: str) -> None:
    """Better no answer than a wrong one: the ranks refuse to run the step."""
    from rekindle_plugins.tensorrt_llm.loads import Loads, Staging

    assert shim.leader is not None
    shim._loads = loads = Loads(Staging(shim.leader, 4, 0.0), 4)
    for pages, computed in (([], 0), ([7, -1, 9], 0)):
        loads._offers[1] = Offer(1 if not pages else 0, (), (0, 1))
        assert "no blocks" in shim.next_plan(first(data(1, range(12), pages, computed))).broken
    loads._offers[1] = Offer(0, (), (0, 1))
    assert "without having begun" in shim.next_plan(later(data(1, [], []))).broken
    assert shim.next_plan(SimpleNamespace(new_requests=[object()], cached_requests=[])).broken
    loads._offers[2] = Offer(1, (), (2, 3))
    plan = shim.next_plan(first(data(2, range(12), [5, 6], 4)))
    assert [(copy.staging_page, copy.block) for copy in plan.copies] == [(2, 6)], "less was allocated than claimed"
    assert not plan.broken
