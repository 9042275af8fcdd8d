"""Status values for tests, with every field set to something that its default is not."""

from __future__ import annotations

from dataclasses import dataclass, field

from rekindle.lifecycle.status import EngineStatus, KeeperStatus, PageCounters, RecoveryReport, StoreStatus
from rekindle.lifecycle.totals import PHASES, BackendTotals, CopierTotals, PhaseTimes, Totals
from rekindle_plugins.contract.errors import RekindleError

PAGES = PageCounters(
    live=1200,
    checkpointed=1150,
    pending=4,
    lost_to_overwrite=3,
    lost_in_journal=2,
    already_stored=40,
    restored=900,
    rejected={"checksum": 1, "fence-moved": 7},
    lag_s=0.012,
)
ENGINE = EngineStatus(
    instance="8f14e45fceea167a",
    backend="vllm",
    plugin_version="0.1.0",
    api_version="1.0",
    capabilities=("eager-restore",),
    engine_version="0.32.0",
    state="running",
    world_size=2,
    ranks_attached=2,
    identity="c4ca4238a0b923820dcc509a6f75849b",
    attached_s=61.5,
    page_count=4096,
    pages=PAGES,
    steps=77,
    outstanding=5,
    shim_us_per_step=12.25,
    note="journal overflowed once",
    hung_s=31.5,
    pid=4242,
    step_age_s=0.75,
)
STORE = StoreStatus(
    directory="/dev/shm/rekindle",
    size_bytes=2 << 30,
    used_bytes=1 << 29,
    slots=2048,
    pages=512,
    pinned=8,
    evicted=17,
    identity="c4ca4238a0b923820dcc509a6f75849b",
    messages=("2 page(s) dropped: its parent is missing",),
)
RECOVERY = RecoveryReport(
    number=3,
    identity="c4ca4238a0b923820dcc509a6f75849b",
    died_instance="d3d9446802a44259",
    started_instance="8f14e45fceea167a",
    reason="connection closed",
    pages_committed=1000,
    pages_salvaged=12,
    pages_unsaved=1,
    pages_restored=990,
    tokens_restored=15840,
    pages_rejected={"checksum": 1},
    salvage_s=0.02,
    release_s=0.04,
    down_s=2.5,
    restore_s=0.5,
    finished_unix=1760000000.5,
    mismatches=("dtype", "block_size"),
    suspicion="2 in a row died right after a restore",
    began_unix=1759999997.0,
    detect_s=0.004,
    asked_s=2.75,
    warm_s=3.25,
)
STATUS = KeeperStatus(
    version="0.1.0",
    uptime_s=7265.25,
    ready=True,
    engines=(ENGINE,),
    stores=(STORE,),
    last_recovery=RECOVERY,
    refused={"peer_refused": 2},
    copier_crashes=1,
    bytes_checkpointed=5 << 30,
    bytes_restored=3 << 20,
    restarts=3,
    mode="paused",
)
TOTALS = Totals(
    backends={
        "vllm": BackendTotals(
            checkpointed=1150,
            already_stored=40,
            restored=900,
            lost_to_overwrite=3,
            lost_in_journal=2,
            rejected={"checksum": 1, "fence-moved": 7},
            steps=77,
            deaths=3,
            restarts=3,
        )
    },
    copiers={0: CopierTotals(5 << 29, 3 << 19, 1.5), 1: CopierTotals(5 << 29, 3 << 19, 2.5)},
    phases={phase: PhaseTimes((0, 0, 1, 2, *[0] * 14), 0.03) for phase in PHASES},
    recoveries=3,
    evicted=17,
)
EMPTY = KeeperStatus(
    version="0.1.0",
    uptime_s=0.0,
    ready=False,
    engines=(),
    stores=(),
    last_recovery=None,
    refused={},
    copier_crashes=0,
    bytes_checkpointed=0,
    bytes_restored=0,
)


@dataclass
class FakeSource:
    """A keeper that says what it is told to say."""

    value: KeeperStatus = field(default=STATUS)
    counted: Totals = field(default=TOTALS)
    error: Exception | None = None

    def status(self) -> KeeperStatus:
        if self.error is not None:
            raise self.error
        return self.value

    def totals(self) -> Totals:
        return self.counted


def an_error(code: str = "internal") -> RekindleError:
    error = RekindleError("restore", "region r3", "checksum mismatch at page 17", "the page was skipped")
    error.code = code
    return error
