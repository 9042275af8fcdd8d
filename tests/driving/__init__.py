"""Driving real processes in tests: a sidecar, nano engines, what they leave in the store, and what is right.

Nothing here sleeps for a fixed time, and nothing started here outlives the test process: every child is killed with
its process group by its owner, by `atexit`, and by the kernel when the test process itself is killed.
"""

from driving.nano import NanoEngine
from driving.pod import Pod
from driving.polling import until
from driving.proxied import Proxied, StreamClient
from driving.reference import Reference
from driving.sidecar import Sidecar

__all__ = ["NanoEngine", "Pod", "Proxied", "Reference", "Sidecar", "StreamClient", "until"]
