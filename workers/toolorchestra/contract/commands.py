"""Commands of pods: the operator writes them into pod templates, and the images of all releases support them.

An attempt keeps its pod templates and its image while the operator is upgraded. So these names stay when the code moves
(`toolorchestra.cluster` has the names, `toolorchestra.pods` the code).
"""

from __future__ import annotations

from typing import Final

HEAD_COMMAND: Final = ("python", "-m", "toolorchestra.cluster.head")
NODE_COMMAND: Final = ("python", "-m", "toolorchestra.cluster.node")
DRIVER_COMMAND: Final = ("python", "-m", "toolorchestra.cluster.entrypoint")
PRE_STOP_COMMAND: Final = ("python", "-m", "toolorchestra.cluster.before_end")
FETCH_COMMAND: Final = ("python", "-m", "toolorchestra.cluster.fetch")
