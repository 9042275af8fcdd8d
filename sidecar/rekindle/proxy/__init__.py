"""The stream proxy: an OpenAI-compatible reverse proxy whose clients do not notice that an engine died.

A process of its own, a child of ``rekindle serve`` (``proxy.child``). It handles every token of every stream in Python;
on the keeper's event loop, a busy engine's streams would stand between an engine's death and its salvage, which has
250 ms. It also has other limits, other peers and another life: a new sidecar takes over the port while the proxy of the
old one still brings its streams to their end.

    limits       every bound, with its reason
    sse          server-sent events out of bytes
    headers      what of a message is for the next hop only
    engine_link  is the engine there, since when, and which dialect does it speak
    kept         connections to the engine that are used again
    suspects     which requests may go on after repeated crashes (pure)
    room         how many requests wait, and how much is kept of them
    exchange     one protected request: attempts, and what the client gets
    passage      one request that passes through
    client       the client's side of both
    server       the listener: tells the two apart
    counts       what has happened, told to the sidecar
"""
