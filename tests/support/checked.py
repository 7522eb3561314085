"""How the trainer's annotations are checked in tests: with beartype, and an int is a float, as typing has it."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Given to jaxtyping by its name (`--jaxtyping-packages` in pyproject.toml)."""
