"""`python -m rekindle.copier SPEC_FD`: started by the keeper only."""

import sys

from rekindle.copier.loop import main

main(int(sys.argv[1]))
