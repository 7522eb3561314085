"""The demo's lab is a folder beside its YAML, not part of the package: put it where tests can import it."""

import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[3] / "examples"
sys.path.insert(0, str(EXAMPLES))
