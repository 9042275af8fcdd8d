"""The conformance kit: `rekindle plugin test`. It judges a plugin by what its engine does, and knows no engine.

    kit process     checks, a real sidecar or a probe beside it            everything of rekindle may be imported
    child process   the plugin's driver, its engine, and a watch           rekindle.conformance.child: stdlib alone

This package imports nothing by itself: the child, in the engine's own Python, passes through here.
"""
