from google.protobuf import any_pb2 as _any_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EngineState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENGINE_STATE_UNSPECIFIED: _ClassVar[EngineState]
    ENGINE_STATE_WAITING: _ClassVar[EngineState]
    ENGINE_STATE_ATTACHED: _ClassVar[EngineState]
    ENGINE_STATE_RESTORING: _ClassVar[EngineState]
    ENGINE_STATE_RUNNING: _ClassVar[EngineState]
    ENGINE_STATE_LOST: _ClassVar[EngineState]
    ENGINE_STATE_SALVAGING: _ClassVar[EngineState]
ENGINE_STATE_UNSPECIFIED: EngineState
ENGINE_STATE_WAITING: EngineState
ENGINE_STATE_ATTACHED: EngineState
ENGINE_STATE_RESTORING: EngineState
ENGINE_STATE_RUNNING: EngineState
ENGINE_STATE_LOST: EngineState
ENGINE_STATE_SALVAGING: EngineState

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: KeeperStatus
    def __init__(self, status: _Optional[_Union[KeeperStatus, _Mapping]] = ...) -> None: ...

class KeeperStatus(_message.Message):
    __slots__ = ("version", "uptime_s", "ready", "engines", "stores", "last_recovery", "refused", "copier_crashes", "bytes_checkpointed", "bytes_restored", "restarts")
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
    def __init__(self, version: _Optional[str] = ..., uptime_s: _Optional[float] = ..., ready: _Optional[bool] = ..., engines: _Optional[_Iterable[_Union[EngineStatus, _Mapping]]] = ..., stores: _Optional[_Iterable[_Union[StoreStatus, _Mapping]]] = ..., last_recovery: _Optional[_Union[RecoveryReport, _Mapping]] = ..., refused: _Optional[_Mapping[str, int]] = ..., copier_crashes: _Optional[int] = ..., bytes_checkpointed: _Optional[int] = ..., bytes_restored: _Optional[int] = ..., restarts: _Optional[int] = ...) -> None: ...

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
