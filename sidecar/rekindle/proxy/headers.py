"""What of a message is for the next hop only (RFC 9110, 7.6.1), and what the proxy sends in its place."""

from __future__ import annotations

from collections.abc import Mapping

from multidict import CIMultiDict, CIMultiDictProxy

_HOP_BY_HOP = (
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
)


def end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """A copy without what is for one hop, and without what ``Connection`` names."""
    passed = CIMultiDict(headers)
    named = [name.strip() for value in headers.getall("connection", ()) for name in value.split(",")]
    for name in (*_HOP_BY_HOP, *named):
        if name:
            passed.popall(name, None)
    return passed


def for_rewritten(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Of a request whose body we write, and whose answer we read."""
    passed = CIMultiDict(headers)
    for name in ("content-length", "content-encoding", "accept-encoding", "expect"):
        passed.popall(name, None)
    passed["content-type"] = "application/json"
    return passed
