"""The tests of objectives share what a script of two processes runs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
