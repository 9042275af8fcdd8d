"""What an engine brought with it: the checked contents of its hello messages.

Everything here came from another process. Each value is checked before it is kept, descriptors are owned by the object
that holds them, and a bad hello raises a typed error that names what was wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.contract.errors import GeometryError, ProtocolError
from rekindle_plugins.contract.fence import Fence
from rekindle_plugins.contract.geometry import MAX_GROUPS, MAX_PAGES, Region
from rekindle_plugins.contract.identity import Identity
from rekindle_plugins.contract.journal import JournalReader
from rekindle_plugins.contract.plugin import PluginInfo
from rekindle_plugins.contract.sharing import KINDS, SHM
from rekindle_plugins.contract.wire import Message, duplicate

from rekindle.keeper import page_parts
from rekindle.keeper.page_parts import PageParts
from rekindle.keeper.peer import Peer
from rekindle.store.layout import PageGeometry

MAX_WORLD_SIZE = 64
MAX_PAGE_TOKENS = 1 << 14
MAX_SERVING_BYTES = 4096


@dataclass
class LeaderAttachment:
    """The scheduling half: journal, fence and wake-up."""

    peer: Peer
    identity: Identity
    generation: int
    """The journal's generation to which the identity belongs. When it is another one, a reset is on its way."""
    purge: list[Identity]
    page_count: int
    group_tokens: tuple[int, ...]
    journal: JournalReader
    fence: Fence
    wake_fd: int
    serving: Mapping[str, Any] | None = None
    """For the dialect of its plugin, unread; None where it tells nothing."""

    @staticmethod
    def of(peer: Peer, message: Message) -> LeaderAttachment:
        """Raises ProtocolError, IdentityError. Keeps duplicates of the descriptors."""
        if len(message.fds) != 3:
            raise ProtocolError("attach", peer.name, f"a leader brings 3 descriptors, not {len(message.fds)}")
        fields = message.fields
        page_count: Any = fields.get("page_count")
        group_tokens: Any = fields.get("group_tokens")
        if not _is_count(page_count, MAX_PAGES):
            raise ProtocolError("attach", peer.name, f"page_count is {page_count!r:.40}")
        is_list = isinstance(group_tokens, list) and 1 <= len(group_tokens) <= MAX_GROUPS
        if not is_list or not all(_is_count(count, MAX_PAGE_TOKENS) for count in group_tokens):
            raise ProtocolError("attach", peer.name, f"group_tokens is {group_tokens!r:.80}")
        identity = Identity.from_json(fields.get("identity"))
        generation = read_generation(message, peer)
        purge = fields.get("purge", [])
        if not isinstance(purge, list) or len(purge) > 64:
            raise ProtocolError("attach", peer.name, "purge is not a short list")
        purged = [Identity.from_json(entry) for entry in purge]
        serving = read_serving(message, peer)
        journal_fd, fence_fd, wake_fd = message.fds
        if "[eventfd]" not in os.readlink(f"/proc/self/fd/{wake_fd}"):
            raise ProtocolError("attach", peer.name, "its wake-up is no eventfd")
        os.set_blocking(wake_fd, False)
        with contextlib.ExitStack() as undo:
            journal = JournalReader(journal_fd, page_count, group_tokens)
            undo.callback(journal.close)
            fence = Fence.open(os.dup(fence_fd), page_count)
            undo.callback(fence.close)
            attachment = LeaderAttachment(
                peer,
                identity,
                generation,
                purged,
                page_count,
                tuple(group_tokens),
                journal,
                fence,
                os.dup(wake_fd),
                serving,
            )
            undo.pop_all()
            return attachment

    def close(self) -> None:
        self.journal.close()
        self.fence.close()
        os.close(self.wake_fd)


@dataclass
class RankAttachment:
    """The memory of one rank."""

    peer: Peer
    region: Region
    fds: tuple[int, ...]

    @staticmethod
    def of(peer: Peer, message: Message) -> RankAttachment:
        """Raises GeometryError or ProtocolError. Keeps duplicates of the descriptors."""
        region = Region.from_json(message.fields.get("region"))
        if region.kind not in KINDS:
            raise GeometryError(
                "attach", f"region of rank {region.rank}", f"memory of kind {region.kind!r} is not supported"
            )
        if region.descriptor_count != len(message.fds):
            problem = f"{len(message.fds)} descriptors, {region.descriptor_count} are needed for its region"
            raise ProtocolError("attach", peer.name, problem)
        # A GPU's allocation does not tell its size here: the driver checks it when the copier maps it.
        sizes = region.sizes if region.kind == SHM else ()
        for index, (fd, size) in enumerate(zip(message.fds, sizes, strict=bool(sizes))):
            actual = os.fstat(fd).st_size
            if actual < size:
                raise GeometryError(
                    "attach",
                    f"region of rank {region.rank}",
                    f"buffer {index} has {actual} bytes, its geometry claims {size}",
                )
        return RankAttachment(peer, region, duplicate(message.fds))

    def close(self) -> None:
        Message("", {}, self.fds).close_fds()


@dataclass(frozen=True)
class Hello:
    """What leaders and ranks both say first: which engine they are of, and by which plugin they speak."""

    instance: str
    plugin: PluginInfo
    engine_version: str
    world_size: int

    @staticmethod
    def of(peer: Peer, message: Message) -> Hello:
        """Raises ProtocolError, or VersionError for a plugin that was written for another contract than ours."""
        instance, engine_version, world_size = message["instance"], message["engine_version"], message["world_size"]
        if not 1 <= len(instance) <= 128 or not instance.isprintable():
            raise ProtocolError("attach", peer.name, f"instance is {instance!r:.80}")
        if not engine_version.isprintable():
            raise ProtocolError("attach", peer.name, f"engine_version is {engine_version!r:.80}")
        if not 1 <= world_size <= MAX_WORLD_SIZE:
            raise ProtocolError("attach", peer.name, f"world_size is {world_size}, wanted 1..{MAX_WORLD_SIZE}")
        plugin = PluginInfo.from_json(message["plugin"])
        plugin.check("the sidecar")
        return Hello(instance, plugin, engine_version[:64], world_size)


def read_serving(message: Message, peer: Peer) -> Mapping[str, Any] | None:
    """What a leader tells its plugin's dialect. Raises ProtocolError for what is no small object."""
    serving: Any = message.fields.get("serving")
    if serving is None:
        return None
    if not isinstance(serving, dict) or len(json.dumps(serving)) > MAX_SERVING_BYTES:
        raise ProtocolError("attach", peer.name, f"serving is no object of up to {MAX_SERVING_BYTES} bytes")
    return serving


def read_generation(message: Message, peer: Peer) -> int:
    """The generation told with an identity, in a hello or a reset. Raises ProtocolError."""
    generation: Any = message.fields.get("generation", 0)
    if isinstance(generation, bool) or not isinstance(generation, int) or not 0 <= generation < 1 << 64:
        raise ProtocolError("receive", f"{message.type} from {peer.name}", f"generation is {generation!r:.40}")
    return generation


def check_together(leader: LeaderAttachment, ranks: list[RankAttachment]) -> None:
    """Leader and ranks must describe the same pages. Raises GeometryError."""
    for rank in ranks:
        region = rank.region
        tokens = tuple(group.page_tokens for group in region.groups)
        if region.page_count != leader.page_count or tokens != leader.group_tokens:
            raise GeometryError(
                "attach",
                f"region of rank {region.rank}",
                f"{region.page_count} pages of {tokens} tokens, the leader says {leader.page_count} of "
                f"{leader.group_tokens}",
            )


def with_layout(identity: Identity, regions: Sequence[Region]) -> Identity:
    """The leader's identity with what only the ranks know: what the bytes in their parts mean, and their number."""
    layouts = sorted((region.rank, region.layout, region.part_bytes) for region in regions)
    digest = hashlib.sha256(repr(layouts).encode()).hexdigest()[:32]
    return identity.with_field(page_parts.FIELD, f"{digest} {PageParts.of_regions(regions).to_text()}".strip())


def page_geometry(leader: LeaderAttachment, regions: Sequence[Region]) -> PageGeometry:
    """What a slot of the arena must hold: one page of any group, all ranks together."""
    return PageGeometry(max(region.part_bytes for region in regions), len(regions), max(leader.group_tokens))


def _is_count(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= limit
