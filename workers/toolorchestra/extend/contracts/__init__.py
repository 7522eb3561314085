"""What an extension is tested with: each function holds one against its contract, and raises `ContractBroken`.

The first four take the plug-in's `package/Name`, so that its entry point is tested too; names of this project's own
graders and combiners do as well. The last two take the object and are awaited.
"""

from __future__ import annotations

from toolorchestra.extend.contracts.broken import ContractBroken
from toolorchestra.extend.contracts.called import experts, tool
from toolorchestra.extend.contracts.combined import combiner
from toolorchestra.extend.contracts.graded import grader
from toolorchestra.extend.contracts.sourced import source
from toolorchestra.extend.contracts.trained import objective

__all__ = ["ContractBroken", "combiner", "experts", "grader", "objective", "source", "tool"]
