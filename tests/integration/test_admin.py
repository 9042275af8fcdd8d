"""The admin API over a real sidecar with real engines: every verb does what it says, and takes nothing with it."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from driving import NanoEngine, Pod, Reference, until
from driving.arena import StoredPage, find_damage, stored_pages
from driving.reference import chain, prompt
from rekindle.admin.client import AdminClient
from rekindle.lifecycle.progress import Exported, Imported, RestorePlan, Verification
from rekindle.lifecycle.status import Event
from rekindle_plugins.contract.errors import IdentityError, RekindleError, StoreFullError, UnavailableError


@pytest.fixture
def admin(pod: Pod) -> Iterator[AdminClient]:
    """A client of the pod's sidecar, also after it was started anew."""
    with client_of(pod) as client:
        yield client


def client_of(pod: Pod) -> AdminClient:
    return AdminClient(pod.sidecar.run_dir / "admin.sock", deadline_s=20, long_deadline_s=60)


def asked(pod: Pod, count: int = 3, **settings: int) -> NanoEngine:
    """An engine that has answered some questions, and whose pages are stored."""
    engine = pod.engine(**settings)
    for seed in range(count):
        engine.ask(prompt(200 + 50 * seed, seed))
    pod.sidecar.when_idle()
    return engine


def flip(page: StoredPage) -> None:
    fd = os.open(page.path, os.O_RDWR)
    try:
        os.pwrite(fd, bytes([os.pread(fd, 1, page.offset + 7)[0] ^ 1]), page.offset + 7)
    finally:
        os.close(fd)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(RekindleError) as caught:
        call()
    assert caught.value.hint, "every error says what to do next"
    return caught.value.code


def test_sessions_and_pages_are_those_of_the_engines_conversations(
    pod: Pod, admin: AdminClient, reference: Reference
) -> None:
    asked(pod)
    sessions = list(admin.sessions())
    assert [session.page_count for session in sessions] == [20, 17, 14], "the last one first"
    question = prompt(300, 2)
    keys = chain([*question, *reference.tokens(question)[:-1]])
    assert sessions[0].leaf_key == keys[-1].hex()
    whole = admin.session(sessions[0].id, with_tokens=True)
    assert list(whole.token_ids) == [*question, *reference.tokens(question)][: len(keys) * 16]
    assert admin.session(sessions[0].id).token_ids == ()
    pages = list(admin.pages(session_id=sessions[0].id))
    assert [page.key for page in pages] == [key.hex() for key in keys]
    assert len(list(admin.pages())) == 51
    detail = admin.inspect(pages[3].key, with_tokens=True)
    assert detail.damaged_ranks == ()
    assert detail.token_ids == tuple(question[48:64])
    assert [engine.state for engine in admin.engines()] == ["running"]
    assert {plugin.name for plugin in admin.plugins() if plugin.loaded} >= {"nano", "vllm"}


def test_a_session_has_the_id_of_the_request_that_went_on_with_it(
    pod: Pod, admin: AdminClient, reference: Reference
) -> None:
    engine = pod.engine()
    first, other = engine.ask(prompt(200)), engine.ask(prompt(250, 1))
    turn = [*prompt(200), *reference.tokens(prompt(200)), *prompt(50, 2)]
    second = engine.ask(turn)
    again = engine.ask(prompt(200))
    pod.sidecar.when_idle()
    assert [s.request_id for s in admin.sessions()] == [second.request_id, other.request_id]
    assert len({first.request_id, second.request_id, other.request_id, again.request_id}) == 4
    pod.sidecar.kill()
    pod.sidecar.start()
    pod.sidecar.when("the engine to attach", lambda s: [e.state for e in s.engines] == ["running"])
    assert {s.request_id for s in admin.sessions()} == {""}, "it was not told since it started, and does not guess"
    engine.restart()
    third = engine.ask([*turn, *reference.tokens(turn), *prompt(50, 3)])
    pod.sidecar.when_idle()
    assert next(admin.sessions()).request_id == third.request_id


def test_a_pinned_session_outlives_pressure_and_restarts_and_an_evicted_one_is_gone(
    make_pod: Callable[..., Pod], reference: Reference
) -> None:
    pod = make_pod(store_size="1MiB")
    pod.sidecar.start()
    engine = asked(pod, 1)
    with client_of(pod) as admin:
        (session,) = admin.sessions()
        assert admin.pin(session_id=session.id) == session.page_count
        for seed in range(10, 20):
            engine.ask(prompt(250, seed))
        pod.sidecar.when_idle()
        assert pod.sidecar.store().evicted > 0
        assert admin.session(session.id).pinned
        assert code_of(lambda: admin.evict(session_id=session.id)) == "not_now"
    pod.sidecar.kill()
    pod.sidecar.start()
    with client_of(pod) as admin:
        until("its pages to be there", lambda: admin.session(session.id).pinned)
        engine.kill()
        pod.sidecar.when_released()
        assert admin.unpin(session_id=session.id) == 1
        done = admin.evict(session_id=session.id)
        assert (done.evicted_count, done.kept_count) == (session.page_count, 0)
        assert code_of(lambda: admin.session(session.id)) == "not_found"
        engine.start()
        answer = engine.ask(prompt(200, 0))
        assert answer.cached_tokens == 0
        assert answer.token_ids == reference.tokens(prompt(200, 0))


def test_a_pause_stops_checkpointing_and_resume_catches_up(pod: Pod, admin: AdminClient, reference: Reference) -> None:
    engine = asked(pod, 1)
    stored = set(stored_pages(pod.store_dir))
    admin.pause()
    assert admin.status().mode == "paused"
    question = prompt(400, 7)
    engine.ask(question)
    until("its pages to be pending", lambda: admin.engines()[0].pages.pending >= 26)
    assert set(stored_pages(pod.store_dir)) == stored
    assert code_of(lambda: list(admin.checkpoint())) == "not_now"
    admin.resume()
    assert list(admin.checkpoint())[-1].pages_done >= 0
    assert set(chain([*question, *reference.tokens(question)[:-1]])) <= set(stored_pages(pod.store_dir))
    assert find_damage(pod.store_dir, reference) == []


def test_a_paused_sidecar_still_salvages_a_dead_engine(pod: Pod, admin: AdminClient, reference: Reference) -> None:
    engine = asked(pod, 1)
    admin.pause()
    question = prompt(400, 8)
    engine.ask(question)
    engine.kill()
    pod.sidecar.when_released()
    assert admin.recovery_report().pages_salvaged >= 26
    assert set(chain(question)) <= set(stored_pages(pod.store_dir))


def test_a_draining_sidecar_takes_no_engine_until_it_is_told_to(
    pod: Pod, admin: AdminClient, reference: Reference
) -> None:
    engine = asked(pod, 1)
    assert list(admin.drain())[-1] is not None
    question = prompt(300, 5)
    assert engine.ask(question).token_ids == reference.tokens(question)
    pod.sidecar.when_idle()
    assert set(chain(question)) <= set(stored_pages(pod.store_dir)), "who is attached is checkpointed on"
    second = pod.engine()
    assert second.ask(question).cached_tokens == 0
    assert len(admin.engines()) == 1
    assert admin.status().refused["unavailable"] >= 1
    assert code_of(admin.pause) == "not_now"
    admin.resume()
    until("the second engine to be taken", lambda: len(admin.engines()) == 2, 40)


def test_verify_finds_a_flipped_byte_and_a_living_engine_gives_the_pages_again(
    pod: Pod, admin: AdminClient, reference: Reference
) -> None:
    engine = asked(pod)
    question = prompt(300, 2)
    page = stored_pages(pod.store_dir)[chain(question)[10]]
    flip(page)
    assert admin.inspect(page.key.hex()).damaged_ranks == (0,)
    *_, plan = admin.restore_plan()
    assert isinstance(plan, RestorePlan)
    assert plan.rejected == {"checksum": 1, "parent": 9}
    *_, told = admin.verify(dry_run=True)
    *_, done = admin.verify()
    assert isinstance(told, Verification)
    assert isinstance(done, Verification)
    assert (told.damaged_count, told.dropped_count, done.damaged_count, done.dropped_count) == (1, 0, 1, 10)
    assert done.damaged[0].key == page.key.hex()
    until("the pages to be stored again", lambda: set(chain(question)) <= set(stored_pages(pod.store_dir)))
    pod.sidecar.when_idle()
    assert find_damage(pod.store_dir, reference) == []
    engine.restart()
    assert engine.ask(question).cached_tokens == 288
    assert code_of(admin.restore) == "not_now"


@pytest.mark.parametrize("whole", [True, False])
def test_an_exported_session_is_restored_by_an_engine_of_another_pod(
    make_pod: Callable[..., Pod], tmp_path: Path, reference: Reference, whole: bool
) -> None:
    first, second = make_pod(), make_pod()
    first.sidecar.start()
    asked(first)
    question, path = prompt(300, 2), tmp_path / "session.rkx"
    with client_of(first) as admin:
        session = next(admin.sessions())
        *_, written = admin.export(path, "" if whole else session.id)
    assert isinstance(written, Exported)
    assert (written.page_count, written.size_bytes) == (51 if whole else 20, path.stat().st_size)
    second.sidecar.start()
    with client_of(second) as admin:
        *_, read = admin.import_(path)
        assert isinstance(read, Imported)
        assert read.page_count == written.page_count
        engine = second.engine()
        answer = engine.ask(question)
        assert answer.cached_tokens == 288
        assert answer.token_ids == reference.tokens(question)
        assert find_damage(second.store_dir, reference) == []
        *_, again = admin.import_(path)
        assert isinstance(again, Imported)
        assert again.page_count == 0


def test_pages_imported_under_a_running_engine_come_back_at_a_requests_demand(
    make_pod: Callable[..., Pod], tmp_path: Path, reference: Reference
) -> None:
    first, second = make_pod(), make_pod()
    first.sidecar.start()
    asked(first)
    with client_of(first) as admin:
        list(admin.export(tmp_path / "all.rkx"))
    second.sidecar.start()
    engine = second.engine()
    with client_of(second) as admin:
        list(admin.import_(tmp_path / "all.rkx"))
    question = prompt(300, 2)
    answer = engine.ask(question)
    assert (answer.cached_tokens, answer.token_ids) == (288, reference.tokens(question))


@pytest.mark.parametrize("work", ["import", "resize"])
def test_a_sidecar_killed_in_the_middle_of_an_operators_work_leaves_a_good_store(
    make_pod: Callable[..., Pod], tmp_path: Path, reference: Reference, work: str
) -> None:
    first, pod = make_pod(), make_pod()
    first.sidecar.start()
    asked(first)
    path = tmp_path / "all.rkx"
    with client_of(first) as admin:
        *_, written = admin.export(path)
        assert isinstance(written, Exported)
    pod.sidecar.start()
    with client_of(pod) as admin:
        list(admin.import_(path))

    def begin(turn: int) -> None:
        with client_of(pod) as own, contextlib.suppress(RekindleError):
            if work == "import":
                own.evict(session_id=next(own.sessions()).id)
                list(own.import_(path))
            else:
                own.resize((16 + turn) << 20)

    source = random.Random(f"killed in the middle of {work}")
    for turn in range(6):
        thread = threading.Thread(target=begin, args=(turn,))
        thread.start()
        thread.join(source.uniform(0.0, 0.1))  # where it is by then does not matter: the store is good at every instant
        pod.sidecar.kill()
        thread.join()
        pod.sidecar.start()
        assert find_damage(pod.store_dir, reference) == []
        with client_of(pod) as admin:
            *_, verified = admin.verify()
            assert isinstance(verified, Verification)
            assert verified.damaged_count == 0
            *_, read = admin.import_(path)
            assert isinstance(read, Imported)
            assert read.page_count + read.already_stored_count == written.page_count
    answer = pod.engine().ask(prompt(300, 2))
    assert (answer.cached_tokens, answer.token_ids) == (288, reference.tokens(prompt(300, 2)))


def test_bad_files_full_stores_and_other_identities_change_nothing(
    make_pod: Callable[..., Pod], tmp_path: Path, reference: Reference
) -> None:
    source, pod = make_pod(), make_pod(store_size="1MiB")
    source.sidecar.start()
    asked(source)
    path = tmp_path / "all.rkx"
    with client_of(source) as admin:
        list(admin.export(path))
        assert code_of(lambda: list(admin.export(path))) == "request"
        list(admin.export(path, overwrite=True))
    good = path.read_bytes()
    pod.sidecar.start()
    engine = asked(pod, 1)
    engine.ask(prompt(400, 9))
    pod.sidecar.when_idle()
    before = set(stored_pages(pod.store_dir))
    with client_of(pod) as admin:
        for bad in (good[: len(good) // 2], good[:5000] + b"x" + good[5001:], b"", good + b"x"):
            (tmp_path / "bad.rkx").write_bytes(bad)
            assert code_of(lambda: list(admin.import_(tmp_path / "bad.rkx"))) == "export_file"
        with pytest.raises(StoreFullError):
            list(admin.import_(path))
        assert code_of(lambda: list(admin.import_(tmp_path / "absent"))) == "request"
        assert set(stored_pages(pod.store_dir)) == before
    other = make_pod()
    other.sidecar.start()
    asked(other, 1, page_tokens=8)
    with client_of(other) as admin:
        with pytest.raises(IdentityError, match="geometry"):
            list(admin.import_(path))
        assert len(list(admin.sessions())) == 1
    question = prompt(200, 0)
    engine.restart()
    assert engine.ask(question).token_ids == reference.tokens(question)


def test_verify_export_and_engines_that_die_do_not_disturb_each_other(
    pod: Pod, admin: AdminClient, tmp_path: Path, reference: Reference
) -> None:
    engine = asked(pod)
    ended, failures = threading.Event(), []

    def work() -> None:
        with client_of(pod) as own:
            while not ended.is_set():
                try:
                    *_, done = own.verify()
                    assert isinstance(done, Verification)
                    assert done.damaged_count == 0
                    list(own.export(tmp_path / "x.rkx", overwrite=True))
                except Exception as error:
                    failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for seed in range(3):
            question = prompt(250, 20 + seed)
            assert engine.ask(question).token_ids == reference.tokens(question)
            engine.restart()
            assert engine.ask(question).token_ids == reference.tokens(question)
    finally:
        ended.set()
        thread.join()
    assert failures == []
    pod.sidecar.when_idle()
    assert find_damage(pod.store_dir, reference) == []


def test_a_client_that_hangs_up_ends_its_work_and_nothing_else(
    pod: Pod, admin: AdminClient, tmp_path: Path, reference: Reference
) -> None:
    engine = asked(pod)
    for steps in (admin.verify(), admin.export(tmp_path / "some.rkx"), admin.checkpoint()):
        next(iter(steps))
        steps.close()  # type: ignore[attr-defined]
    call, request = admin._prepared("Export", {"path": str(tmp_path / "never.rkx")})
    hung_up = call(request)
    hung_up.cancel()
    until("nothing unfinished to be left", lambda: not list(tmp_path.glob(".*")))
    *_, done = admin.verify()
    assert isinstance(done, Verification)
    assert done.damaged_count == 0
    assert engine.ask(prompt(300, 2)).token_ids == reference.tokens(prompt(300, 2))


def test_watchers_see_an_engine_die_and_end_with_the_sidecar(pod: Pod, admin: AdminClient) -> None:
    engine = asked(pod, 1)
    seen: list[Event] = []
    why: list[RekindleError] = []

    def watch() -> None:
        with client_of(pod) as own:
            try:
                seen.extend(event for event, _ in own.events(backlog=5))
            except UnavailableError as error:
                why.append(error)

    names = [event.name for event, _ in admin.events(backlog=100, follow=False)]
    assert "serving" in names
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    engine.kill()
    pod.sidecar.when_released()
    until(
        "its end to be an event",
        lambda: "engine_lost" in [event.name for event, _ in admin.events(backlog=100, follow=False)],
    )
    pod.sidecar.terminate()
    thread.join(20)
    assert why, "the stream ends with the sidecar"


def test_a_store_changes_its_size_under_a_running_engine(pod: Pod, admin: AdminClient, reference: Reference) -> None:
    engine = asked(pod)
    question = prompt(300, 2)
    done = admin.resize(32 << 20)
    assert (done.page_count, done.evicted_count) == (51, 0)
    assert pod.sidecar.store().size_bytes == done.after_bytes > 31 << 20
    more = prompt(500, 11)
    assert engine.ask(more).token_ids == reference.tokens(more)
    until("its pages to be stored", lambda: set(chain(more)) <= set(stored_pages(pod.store_dir)))
    admin.pin(session_id=chain([*question, *reference.tokens(question)[:-1]])[-1].hex())
    done = admin.resize(1 << 20)
    assert done.evicted_count > 0
    assert find_damage(pod.store_dir, reference) == []
    engine.restart()
    assert engine.ask(question).cached_tokens == 288
    with pytest.raises(StoreFullError):
        admin.resize(1 << 16)


def test_the_log_level_changes_at_once(pod: Pod, admin: AdminClient) -> None:
    assert admin.set_log_level("error") == "info"
    admin.pause()
    admin.resume()
    assert "event=mode" not in pod.sidecar.output()
    assert admin.set_log_level("info") == "error"
    admin.pause()
    until("the line to be written", lambda: "event=mode" in pod.sidecar.output())


def test_unknown_things_and_wrong_sizes_have_a_clear_status(pod: Pod, admin: AdminClient) -> None:
    assert code_of(lambda: list(admin.restore_plan())) == "not_found"
    assert code_of(admin.recovery_report) == "not_found"
    asked(pod, 1)
    assert code_of(lambda: admin.session("feedfeed")) == "not_found"
    assert code_of(lambda: admin.inspect("feedfeed")) == "not_found"
    assert code_of(lambda: admin.session("nonsense")) == "request"
    assert code_of(lambda: admin.pin()) == "request"
    assert code_of(lambda: admin.evict(everything=False)) == "request"
    assert code_of(lambda: list(admin.pages(identity="feed"))) == "not_found"
    assert code_of(lambda: admin.resize(1 << 60)) == "request"
    assert code_of(lambda: admin.set_log_level("loud")) == "request"
    assert code_of(lambda: list(admin.export(Path("x\0y")))) == "request"


def test_a_dead_sidecars_socket_is_replaced_and_a_living_ones_is_never_stolen(pod: Pod) -> None:
    path = pod.sidecar.run_dir / "admin.sock"
    assert pod.sidecar.run_dir.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o077 == 0
    inode = path.stat().st_ino
    rival = Pod()
    try:
        rival.sidecar.run_dir = pod.sidecar.run_dir
        rival.sidecar.start(wait=False)
        assert rival.sidecar.process is not None
        assert rival.sidecar.process.wait() == 5
        assert "a live sidecar has it" in rival.sidecar.output()
    finally:
        rival.close()
    assert path.stat().st_ino == inode
    assert pod.sidecar.status().ready
    pod.sidecar.kill()
    assert path.exists()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(path))
    pod.sidecar.start()
    assert pod.sidecar.status().ready
