"""The commands of pods: what the operator writes into templates, and an image of any release understands.

A template outlives the operator that wrote it, and the image that it names: an attempt keeps both. So these names stay,
wherever the code behind them goes (`toolorchestra.cluster` holds the names, `toolorchestra.pods` the code).
"""

from __future__ import annotations

from typing import Final

HEAD_COMMAND: Final = ("python", "-m", "toolorchestra.cluster.head")
NODE_COMMAND: Final = ("python", "-m", "toolorchestra.cluster.node")
DRIVER_COMMAND: Final = ("python", "-m", "toolorchestra.cluster.entrypoint")
PRE_STOP_COMMAND: Final = ("python", "-m", "toolorchestra.cluster.before_end")
FETCH_COMMAND: Final = ("python", "-m", "toolorchestra.cluster.fetch")
