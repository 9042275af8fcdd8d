"""``python -m rekindle.cli``: how ``rekindle run`` starts its sidecar, whatever is on the PATH."""

from rekindle.cli import main

main()
