"""The contract between an engine's shim and the sidecar: protocol, geometry, journal, fence, identity.

Stdlib only and free of side effects, so that it can be imported inside any engine image (Python 3.10 to 3.13).
Both halves import it; it imports neither.
"""

from rekindle_plugins.contract.adapter import Adapter, Health, Launch, Wired
from rekindle_plugins.contract.dialect import (
    Conversation,
    Dialect,
    EngineAnswer,
    EngineRequest,
    NotResumableError,
    Resumption,
    Taken,
    Turn,
    Way,
)
from rekindle_plugins.contract.driver import Answer, Driver, EngineFacts
from rekindle_plugins.contract.errors import (
    ConfigError,
    DeviceError,
    GeometryError,
    IdentityError,
    PeerRefusedError,
    ProtocolError,
    RecordError,
    RekindleError,
    StoreError,
    StoreFullError,
    UnavailableError,
    VersionError,
)
from rekindle_plugins.contract.fence import Fence
from rekindle_plugins.contract.geometry import GroupGeometry, Region, Run
from rekindle_plugins.contract.identity import Identity, Mismatch
from rekindle_plugins.contract.journal import JournalReader, JournalWriter, Record
from rekindle_plugins.contract.listening import Listening, ServerFlags
from rekindle_plugins.contract.plugin import Capability, PluginInfo, Stage, Stages
from rekindle_plugins.contract.presence import Presence
from rekindle_plugins.contract.sharing import DeviceBuffer
from rekindle_plugins.contract.wire import API_VERSION, Channel, Message

__all__ = [
    "API_VERSION",
    "Adapter",
    "Answer",
    "Capability",
    "Channel",
    "ConfigError",
    "Conversation",
    "DeviceBuffer",
    "DeviceError",
    "Dialect",
    "Driver",
    "EngineAnswer",
    "EngineFacts",
    "EngineRequest",
    "Fence",
    "GeometryError",
    "GroupGeometry",
    "Health",
    "Identity",
    "IdentityError",
    "JournalReader",
    "JournalWriter",
    "Launch",
    "Listening",
    "Message",
    "Mismatch",
    "NotResumableError",
    "PeerRefusedError",
    "PluginInfo",
    "Presence",
    "ProtocolError",
    "Record",
    "RecordError",
    "Region",
    "RekindleError",
    "Resumption",
    "Run",
    "ServerFlags",
    "Stage",
    "Stages",
    "StoreError",
    "StoreFullError",
    "Taken",
    "Turn",
    "UnavailableError",
    "VersionError",
    "Way",
    "Wired",
]
