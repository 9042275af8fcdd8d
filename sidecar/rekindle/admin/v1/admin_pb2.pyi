from google.protobuf import any_pb2 as _any_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KeeperMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEEPER_MODE_UNSPECIFIED: _ClassVar[KeeperMode]
    KEEPER_MODE_SERVING: _ClassVar[KeeperMode]
    KEEPER_MODE_PAUSED: _ClassVar[KeeperMode]
    KEEPER_MODE_DRAINING: _ClassVar[KeeperMode]

class EngineState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENGINE_STATE_UNSPECIFIED: _ClassVar[EngineState]
    ENGINE_STATE_WAITING: _ClassVar[EngineState]
    ENGINE_STATE_ATTACHED: _ClassVar[EngineState]
    ENGINE_STATE_RESTORING: _ClassVar[EngineState]
    ENGINE_STATE_RUNNING: _ClassVar[EngineState]
    ENGINE_STATE_LOST: _ClassVar[EngineState]
    ENGINE_STATE_SALVAGING: _ClassVar[EngineState]

class ImportRoom(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMPORT_ROOM_UNSPECIFIED: _ClassVar[ImportRoom]
    IMPORT_ROOM_FREE: _ClassVar[ImportRoom]
    IMPORT_ROOM_EVICT: _ClassVar[ImportRoom]

class LogLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOG_LEVEL_UNSPECIFIED: _ClassVar[LogLevel]
    LOG_LEVEL_DEBUG: _ClassVar[LogLevel]
    LOG_LEVEL_INFO: _ClassVar[LogLevel]
    LOG_LEVEL_WARNING: _ClassVar[LogLevel]
    LOG_LEVEL_ERROR: _ClassVar[LogLevel]
KEEPER_MODE_UNSPECIFIED: KeeperMode
KEEPER_MODE_SERVING: KeeperMode
KEEPER_MODE_PAUSED: KeeperMode
KEEPER_MODE_DRAINING: KeeperMode
ENGINE_STATE_UNSPECIFIED: EngineState
ENGINE_STATE_WAITING: EngineState
ENGINE_STATE_ATTACHED: EngineState
ENGINE_STATE_RESTORING: EngineState
ENGINE_STATE_RUNNING: EngineState
ENGINE_STATE_LOST: EngineState
ENGINE_STATE_SALVAGING: EngineState
IMPORT_ROOM_UNSPECIFIED: ImportRoom
IMPORT_ROOM_FREE: ImportRoom
IMPORT_ROOM_EVICT: ImportRoom
LOG_LEVEL_UNSPECIFIED: LogLevel
LOG_LEVEL_DEBUG: LogLevel
LOG_LEVEL_INFO: LogLevel
LOG_LEVEL_WARNING: LogLevel
LOG_LEVEL_ERROR: LogLevel

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: KeeperStatus
    def __init__(self, status: _Optional[_Union[KeeperStatus, _Mapping]] = ...) -> None: ...

class KeeperStatus(_message.Message):
    __slots__ = ("version", "uptime_s", "ready", "engines", "stores", "last_recovery", "refused", "copier_crashes", "bytes_checkpointed", "bytes_restored", "restarts", "mode")
    class RefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    STORES_FIELD_NUMBER: _ClassVar[int]
    LAST_RECOVERY_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    COPIER_CRASHES_FIELD_NUMBER: _ClassVar[int]
    BYTES_CHECKPOINTED_FIELD_NUMBER: _ClassVar[int]
    BYTES_RESTORED_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    version: str
    uptime_s: float
    ready: bool
    engines: _containers.RepeatedCompositeFieldContainer[EngineStatus]
    stores: _containers.RepeatedCompositeFieldContainer[StoreStatus]
    last_recovery: RecoveryReport
    refused: _containers.ScalarMap[str, int]
    copier_crashes: int
    bytes_checkpointed: int
    bytes_restored: int
    restarts: int
    mode: KeeperMode
    def __init__(self, version: _Optional[str] = ..., uptime_s: _Optional[float] = ..., ready: _Optional[bool] = ..., engines: _Optional[_Iterable[_Union[EngineStatus, _Mapping]]] = ..., stores: _Optional[_Iterable[_Union[StoreStatus, _Mapping]]] = ..., last_recovery: _Optional[_Union[RecoveryReport, _Mapping]] = ..., refused: _Optional[_Mapping[str, int]] = ..., copier_crashes: _Optional[int] = ..., bytes_checkpointed: _Optional[int] = ..., bytes_restored: _Optional[int] = ..., restarts: _Optional[int] = ..., mode: _Optional[_Union[KeeperMode, str]] = ...) -> None: ...

class EngineStatus(_message.Message):
    __slots__ = ("instance", "backend", "engine_version", "state", "world_size", "ranks_attached", "identity", "attached_s", "page_count", "pages", "steps", "outstanding", "shim_us_per_step", "note", "plugin_version", "api_version", "capabilities", "hung_s", "pid", "step_age_s")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    RANKS_ATTACHED_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_S_FIELD_NUMBER: _ClassVar[int]
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    SHIM_US_PER_STEP_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    HUNG_S_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STEP_AGE_S_FIELD_NUMBER: _ClassVar[int]
    instance: str
    backend: str
    engine_version: str
    state: EngineState
    world_size: int
    ranks_attached: int
    identity: str
    attached_s: float
    page_count: int
    pages: PageCounters
    steps: int
    outstanding: int
    shim_us_per_step: float
    note: str
    plugin_version: str
    api_version: str
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    hung_s: float
    pid: int
    step_age_s: float
    def __init__(self, instance: _Optional[str] = ..., backend: _Optional[str] = ..., engine_version: _Optional[str] = ..., state: _Optional[_Union[EngineState, str]] = ..., world_size: _Optional[int] = ..., ranks_attached: _Optional[int] = ..., identity: _Optional[str] = ..., attached_s: _Optional[float] = ..., page_count: _Optional[int] = ..., pages: _Optional[_Union[PageCounters, _Mapping]] = ..., steps: _Optional[int] = ..., outstanding: _Optional[int] = ..., shim_us_per_step: _Optional[float] = ..., note: _Optional[str] = ..., plugin_version: _Optional[str] = ..., api_version: _Optional[str] = ..., capabilities: _Optional[_Iterable[str]] = ..., hung_s: _Optional[float] = ..., pid: _Optional[int] = ..., step_age_s: _Optional[float] = ...) -> None: ...

class PageCounters(_message.Message):
    __slots__ = ("live", "checkpointed", "pending", "lost_to_overwrite", "lost_in_journal", "already_stored", "restored", "rejected", "lag_s")
    class RejectedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    LIVE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTED_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    LOST_TO_OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    LOST_IN_JOURNAL_FIELD_NUMBER: _ClassVar[int]
    ALREADY_STORED_FIELD_NUMBER: _ClassVar[int]
    RESTORED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    LAG_S_FIELD_NUMBER: _ClassVar[int]
    live: int
    checkpointed: int
    pending: int
    lost_to_overwrite: int
    lost_in_journal: int
    already_stored: int
    restored: int
    rejected: _containers.ScalarMap[str, int]
    lag_s: float
    def __init__(self, live: _Optional[int] = ..., checkpointed: _Optional[int] = ..., pending: _Optional[int] = ..., lost_to_overwrite: _Optional[int] = ..., lost_in_journal: _Optional[int] = ..., already_stored: _Optional[int] = ..., restored: _Optional[int] = ..., rejected: _Optional[_Mapping[str, int]] = ..., lag_s: _Optional[float] = ...) -> None: ...

class StoreStatus(_message.Message):
    __slots__ = ("directory", "size_bytes", "used_bytes", "slots", "pages", "pinned", "evicted", "identity", "messages")
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    EVICTED_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    directory: str
    size_bytes: int
    used_bytes: int
    slots: int
    pages: int
    pinned: int
    evicted: int
    identity: str
    messages: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, directory: _Optional[str] = ..., size_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., slots: _Optional[int] = ..., pages: _Optional[int] = ..., pinned: _Optional[int] = ..., evicted: _Optional[int] = ..., identity: _Optional[str] = ..., messages: _Optional[_Iterable[str]] = ...) -> None: ...

class RecoveryReport(_message.Message):
    __slots__ = ("number", "identity", "died_instance", "started_instance", "reason", "pages_committed", "pages_salvaged", "pages_unsaved", "pages_restored", "tokens_restored", "pages_rejected", "salvage_s", "release_s", "down_s", "restore_s", "finished_unix", "mismatches", "suspicion", "began_unix", "detect_s", "asked_s", "warm_s")
    class PagesRejectedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    DIED_INSTANCE_FIELD_NUMBER: _ClassVar[int]
    STARTED_INSTANCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PAGES_COMMITTED_FIELD_NUMBER: _ClassVar[int]
    PAGES_SALVAGED_FIELD_NUMBER: _ClassVar[int]
    PAGES_UNSAVED_FIELD_NUMBER: _ClassVar[int]
    PAGES_RESTORED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_RESTORED_FIELD_NUMBER: _ClassVar[int]
    PAGES_REJECTED_FIELD_NUMBER: _ClassVar[int]
    SALVAGE_S_FIELD_NUMBER: _ClassVar[int]
    RELEASE_S_FIELD_NUMBER: _ClassVar[int]
    DOWN_S_FIELD_NUMBER: _ClassVar[int]
    RESTORE_S_FIELD_NUMBER: _ClassVar[int]
    FINISHED_UNIX_FIELD_NUMBER: _ClassVar[int]
    MISMATCHES_FIELD_NUMBER: _ClassVar[int]
    SUSPICION_FIELD_NUMBER: _ClassVar[int]
    BEGAN_UNIX_FIELD_NUMBER: _ClassVar[int]
    DETECT_S_FIELD_NUMBER: _ClassVar[int]
    ASKED_S_FIELD_NUMBER: _ClassVar[int]
    WARM_S_FIELD_NUMBER: _ClassVar[int]
    number: int
    identity: str
    died_instance: str
    started_instance: str
    reason: str
    pages_committed: int
    pages_salvaged: int
    pages_unsaved: int
    pages_restored: int
    tokens_restored: int
    pages_rejected: _containers.ScalarMap[str, int]
    salvage_s: float
    release_s: float
    down_s: float
    restore_s: float
    finished_unix: float
    mismatches: _containers.RepeatedScalarFieldContainer[str]
    suspicion: str
    began_unix: float
    detect_s: float
    asked_s: float
    warm_s: float
    def __init__(self, number: _Optional[int] = ..., identity: _Optional[str] = ..., died_instance: _Optional[str] = ..., started_instance: _Optional[str] = ..., reason: _Optional[str] = ..., pages_committed: _Optional[int] = ..., pages_salvaged: _Optional[int] = ..., pages_unsaved: _Optional[int] = ..., pages_restored: _Optional[int] = ..., tokens_restored: _Optional[int] = ..., pages_rejected: _Optional[_Mapping[str, int]] = ..., salvage_s: _Optional[float] = ..., release_s: _Optional[float] = ..., down_s: _Optional[float] = ..., restore_s: _Optional[float] = ..., finished_unix: _Optional[float] = ..., mismatches: _Optional[_Iterable[str]] = ..., suspicion: _Optional[str] = ..., began_unix: _Optional[float] = ..., detect_s: _Optional[float] = ..., asked_s: _Optional[float] = ..., warm_s: _Optional[float] = ...) -> None: ...

class ListEnginesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListEnginesResponse(_message.Message):
    __slots__ = ("engines",)
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    engines: _containers.RepeatedCompositeFieldContainer[EngineStatus]
    def __init__(self, engines: _Optional[_Iterable[_Union[EngineStatus, _Mapping]]] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("identity", "page_size", "page_token")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    identity: str
    page_size: int
    page_token: str
    def __init__(self, identity: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions", "next_page_token")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    next_page_token: str
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ("session_id", "with_tokens")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    WITH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    with_tokens: bool
    def __init__(self, session_id: _Optional[str] = ..., with_tokens: _Optional[bool] = ...) -> None: ...

class GetSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("id", "leaf_key", "identity", "token_count", "page_count", "size_bytes", "last_used_unix", "pinned", "pinned_count", "token_ids", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    LEAF_KEY_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_UNIX_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    PINNED_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    leaf_key: str
    identity: str
    token_count: int
    page_count: int
    size_bytes: int
    last_used_unix: float
    pinned: bool
    pinned_count: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    request_id: str
    def __init__(self, id: _Optional[str] = ..., leaf_key: _Optional[str] = ..., identity: _Optional[str] = ..., token_count: _Optional[int] = ..., page_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., last_used_unix: _Optional[float] = ..., pinned: _Optional[bool] = ..., pinned_count: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ListPagesRequest(_message.Message):
    __slots__ = ("identity", "session_id", "page_size", "page_token")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    identity: str
    session_id: str
    page_size: int
    page_token: str
    def __init__(self, identity: _Optional[str] = ..., session_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPagesResponse(_message.Message):
    __slots__ = ("pages", "next_page_token")
    PAGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    pages: _containers.RepeatedCompositeFieldContainer[Page]
    next_page_token: str
    def __init__(self, pages: _Optional[_Iterable[_Union[Page, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Page(_message.Message):
    __slots__ = ("key", "parent_key", "identity", "group", "slot", "token_count", "size_bytes", "last_used_unix", "pinned", "child_count", "lazy_only")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PARENT_KEY_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_UNIX_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    CHILD_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAZY_ONLY_FIELD_NUMBER: _ClassVar[int]
    key: str
    parent_key: str
    identity: str
    group: int
    slot: int
    token_count: int
    size_bytes: int
    last_used_unix: float
    pinned: bool
    child_count: int
    lazy_only: bool
    def __init__(self, key: _Optional[str] = ..., parent_key: _Optional[str] = ..., identity: _Optional[str] = ..., group: _Optional[int] = ..., slot: _Optional[int] = ..., token_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., last_used_unix: _Optional[float] = ..., pinned: _Optional[bool] = ..., child_count: _Optional[int] = ..., lazy_only: _Optional[bool] = ...) -> None: ...

class InspectPageRequest(_message.Message):
    __slots__ = ("key", "with_tokens")
    KEY_FIELD_NUMBER: _ClassVar[int]
    WITH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    key: str
    with_tokens: bool
    def __init__(self, key: _Optional[str] = ..., with_tokens: _Optional[bool] = ...) -> None: ...

class InspectPageResponse(_message.Message):
    __slots__ = ("detail",)
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    detail: PageDetail
    def __init__(self, detail: _Optional[_Union[PageDetail, _Mapping]] = ...) -> None: ...

class PageDetail(_message.Message):
    __slots__ = ("page", "checksums", "damaged_ranks", "token_ids")
    PAGE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUMS_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_RANKS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    page: Page
    checksums: _containers.RepeatedScalarFieldContainer[str]
    damaged_ranks: _containers.RepeatedScalarFieldContainer[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, page: _Optional[_Union[Page, _Mapping]] = ..., checksums: _Optional[_Iterable[str]] = ..., damaged_ranks: _Optional[_Iterable[int]] = ..., token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("session_id", "page_key")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_KEY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    page_key: str
    def __init__(self, session_id: _Optional[str] = ..., page_key: _Optional[str] = ...) -> None: ...

class PinResponse(_message.Message):
    __slots__ = ("page_count",)
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    page_count: int
    def __init__(self, page_count: _Optional[int] = ...) -> None: ...

class UnpinRequest(_message.Message):
    __slots__ = ("session_id", "page_key")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_KEY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    page_key: str
    def __init__(self, session_id: _Optional[str] = ..., page_key: _Optional[str] = ...) -> None: ...

class UnpinResponse(_message.Message):
    __slots__ = ("page_count",)
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    page_count: int
    def __init__(self, page_count: _Optional[int] = ...) -> None: ...

class EvictRequest(_message.Message):
    __slots__ = ("session_id", "page_count", "everything", "identity")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    EVERYTHING_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    page_count: int
    everything: bool
    identity: str
    def __init__(self, session_id: _Optional[str] = ..., page_count: _Optional[int] = ..., everything: _Optional[bool] = ..., identity: _Optional[str] = ...) -> None: ...

class EvictResponse(_message.Message):
    __slots__ = ("eviction",)
    EVICTION_FIELD_NUMBER: _ClassVar[int]
    eviction: Eviction
    def __init__(self, eviction: _Optional[_Union[Eviction, _Mapping]] = ...) -> None: ...

class Eviction(_message.Message):
    __slots__ = ("evicted_count", "kept_count", "freed_bytes")
    EVICTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    KEPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    evicted_count: int
    kept_count: int
    freed_bytes: int
    def __init__(self, evicted_count: _Optional[int] = ..., kept_count: _Optional[int] = ..., freed_bytes: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("pages_done", "pages_total", "bytes_done")
    PAGES_DONE_FIELD_NUMBER: _ClassVar[int]
    PAGES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    pages_done: int
    pages_total: int
    bytes_done: int
    def __init__(self, pages_done: _Optional[int] = ..., pages_total: _Optional[int] = ..., bytes_done: _Optional[int] = ...) -> None: ...

class CheckpointRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckpointResponse(_message.Message):
    __slots__ = ("progress",)
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PauseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("progress",)
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("identity", "dry_run", "page_count")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    identity: str
    dry_run: bool
    page_count: int
    def __init__(self, identity: _Optional[str] = ..., dry_run: _Optional[bool] = ..., page_count: _Optional[int] = ...) -> None: ...

class RestoreResponse(_message.Message):
    __slots__ = ("progress", "plan")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    plan: RestorePlan
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., plan: _Optional[_Union[RestorePlan, _Mapping]] = ...) -> None: ...

class RestorePlan(_message.Message):
    __slots__ = ("identity", "page_count", "token_count", "size_bytes", "rejected", "mismatches", "seconds")
    class RejectedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    MISMATCHES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    identity: str
    page_count: int
    token_count: int
    size_bytes: int
    rejected: _containers.ScalarMap[str, int]
    mismatches: _containers.RepeatedScalarFieldContainer[str]
    seconds: float
    def __init__(self, identity: _Optional[str] = ..., page_count: _Optional[int] = ..., token_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., rejected: _Optional[_Mapping[str, int]] = ..., mismatches: _Optional[_Iterable[str]] = ..., seconds: _Optional[float] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("identity", "session_id", "dry_run")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    identity: str
    session_id: str
    dry_run: bool
    def __init__(self, identity: _Optional[str] = ..., session_id: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("progress", "verification")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    VERIFICATION_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    verification: Verification
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., verification: _Optional[_Union[Verification, _Mapping]] = ...) -> None: ...

class Verification(_message.Message):
    __slots__ = ("page_count", "size_bytes", "damaged", "damaged_count", "dropped_count", "seconds")
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_COUNT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    page_count: int
    size_bytes: int
    damaged: _containers.RepeatedCompositeFieldContainer[DamagedPage]
    damaged_count: int
    dropped_count: int
    seconds: float
    def __init__(self, page_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., damaged: _Optional[_Iterable[_Union[DamagedPage, _Mapping]]] = ..., damaged_count: _Optional[int] = ..., dropped_count: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class DamagedPage(_message.Message):
    __slots__ = ("key", "identity", "slot", "ranks")
    KEY_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    key: str
    identity: str
    slot: int
    ranks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, key: _Optional[str] = ..., identity: _Optional[str] = ..., slot: _Optional[int] = ..., ranks: _Optional[_Iterable[int]] = ...) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("session_id", "identity", "path", "overwrite")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    identity: str
    path: str
    overwrite: bool
    def __init__(self, session_id: _Optional[str] = ..., identity: _Optional[str] = ..., path: _Optional[str] = ..., overwrite: _Optional[bool] = ...) -> None: ...

class ExportResponse(_message.Message):
    __slots__ = ("progress", "exported")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    EXPORTED_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    exported: Exported
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., exported: _Optional[_Union[Exported, _Mapping]] = ...) -> None: ...

class Exported(_message.Message):
    __slots__ = ("path", "identity", "page_count", "size_bytes", "skipped_count", "seconds")
    PATH_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_COUNT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    path: str
    identity: str
    page_count: int
    size_bytes: int
    skipped_count: int
    seconds: float
    def __init__(self, path: _Optional[str] = ..., identity: _Optional[str] = ..., page_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., skipped_count: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class ImportRequest(_message.Message):
    __slots__ = ("path", "room")
    PATH_FIELD_NUMBER: _ClassVar[int]
    ROOM_FIELD_NUMBER: _ClassVar[int]
    path: str
    room: ImportRoom
    def __init__(self, path: _Optional[str] = ..., room: _Optional[_Union[ImportRoom, str]] = ...) -> None: ...

class ImportResponse(_message.Message):
    __slots__ = ("progress", "imported")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    IMPORTED_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    imported: Imported
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., imported: _Optional[_Union[Imported, _Mapping]] = ...) -> None: ...

class Imported(_message.Message):
    __slots__ = ("identity", "page_count", "already_stored_count", "size_bytes", "evicted_count", "seconds")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ALREADY_STORED_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    EVICTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    identity: str
    page_count: int
    already_stored_count: int
    size_bytes: int
    evicted_count: int
    seconds: float
    def __init__(self, identity: _Optional[str] = ..., page_count: _Optional[int] = ..., already_stored_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., evicted_count: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class ResizeStoreRequest(_message.Message):
    __slots__ = ("identity", "size_bytes")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    identity: str
    size_bytes: int
    def __init__(self, identity: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class ResizeStoreResponse(_message.Message):
    __slots__ = ("resized",)
    RESIZED_FIELD_NUMBER: _ClassVar[int]
    resized: Resized
    def __init__(self, resized: _Optional[_Union[Resized, _Mapping]] = ...) -> None: ...

class Resized(_message.Message):
    __slots__ = ("before_bytes", "after_bytes", "page_count", "evicted_count")
    BEFORE_BYTES_FIELD_NUMBER: _ClassVar[int]
    AFTER_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    EVICTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    before_bytes: int
    after_bytes: int
    page_count: int
    evicted_count: int
    def __init__(self, before_bytes: _Optional[int] = ..., after_bytes: _Optional[int] = ..., page_count: _Optional[int] = ..., evicted_count: _Optional[int] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("backlog", "only_backlog")
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    ONLY_BACKLOG_FIELD_NUMBER: _ClassVar[int]
    backlog: int
    only_backlog: bool
    def __init__(self, backlog: _Optional[int] = ..., only_backlog: _Optional[bool] = ...) -> None: ...

class WatchEventsResponse(_message.Message):
    __slots__ = ("event", "lost")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    event: Event
    lost: int
    def __init__(self, event: _Optional[_Union[Event, _Mapping]] = ..., lost: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("number", "time_unix", "level", "name", "fields")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    number: int
    time_unix: float
    level: str
    name: str
    fields: _containers.ScalarMap[str, str]
    def __init__(self, number: _Optional[int] = ..., time_unix: _Optional[float] = ..., level: _Optional[str] = ..., name: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ListPluginsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPluginsResponse(_message.Message):
    __slots__ = ("plugins",)
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    plugins: _containers.RepeatedCompositeFieldContainer[Plugin]
    def __init__(self, plugins: _Optional[_Iterable[_Union[Plugin, _Mapping]]] = ...) -> None: ...

class Plugin(_message.Message):
    __slots__ = ("name", "source", "loaded", "version", "api_version", "engine", "capabilities", "problem")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    name: str
    source: str
    loaded: bool
    version: str
    api_version: str
    engine: str
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    problem: str
    def __init__(self, name: _Optional[str] = ..., source: _Optional[str] = ..., loaded: _Optional[bool] = ..., version: _Optional[str] = ..., api_version: _Optional[str] = ..., engine: _Optional[str] = ..., capabilities: _Optional[_Iterable[str]] = ..., problem: _Optional[str] = ...) -> None: ...

class GetRecoveryReportRequest(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class GetRecoveryReportResponse(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: RecoveryReport
    def __init__(self, report: _Optional[_Union[RecoveryReport, _Mapping]] = ...) -> None: ...

class SetLogLevelRequest(_message.Message):
    __slots__ = ("level",)
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    level: LogLevel
    def __init__(self, level: _Optional[_Union[LogLevel, str]] = ...) -> None: ...

class SetLogLevelResponse(_message.Message):
    __slots__ = ("before",)
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    before: LogLevel
    def __init__(self, before: _Optional[_Union[LogLevel, str]] = ...) -> None: ...

class ErrorDetail(_message.Message):
    __slots__ = ("code", "op", "subject", "problem", "hint")
    CODE_FIELD_NUMBER: _ClassVar[int]
    OP_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    code: str
    op: str
    subject: str
    problem: str
    hint: str
    def __init__(self, code: _Optional[str] = ..., op: _Optional[str] = ..., subject: _Optional[str] = ..., problem: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class RpcStatus(_message.Message):
    __slots__ = ("code", "message", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    details: _containers.RepeatedCompositeFieldContainer[_any_pb2.Any]
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., details: _Optional[_Iterable[_Union[_any_pb2.Any, _Mapping]]] = ...) -> None: ...
