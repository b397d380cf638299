"""Make the helpers of these tests importable, as tests/ is for all others."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
