"""`python -m rekindle.copier SPEC`: started by the keeper only."""

import sys

from rekindle.copier.loop import main

main(sys.argv[1])
