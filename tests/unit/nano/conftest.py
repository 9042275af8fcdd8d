"""Makes `examples/` importable: the nano engine is not part of the distribution."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
