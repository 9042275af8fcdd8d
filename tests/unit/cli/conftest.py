"""The CLI's tests use the admin tests' status values and fake source."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "admin"))
