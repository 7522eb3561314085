"""For packages that extend this one: the protocols, the types in their signatures, and the errors they may raise.

What is here stays from one version to the next, or CHANGELOG.md says how to follow; nothing else of the Python code is
public. Imports neither torch nor Ray: `toolorchestra.extend.objective` has the part that needs torch, and
`toolorchestra.extend.contracts` what an extension is tested with. docs/extending.md has an example of each kind.
"""

from __future__ import annotations

from toolorchestra.experts.chat import ChatReply, ChatRequest, Experts, Message, Reserve, ToolCall
from toolorchestra.experts.errors import ExpertError, ExpertRefused, ExpertUnavailable, Reason, UnknownPool
from toolorchestra.experts.functions import FunctionExperts
from toolorchestra.experts.usage import Usage
from toolorchestra.plugins import PluginError
from toolorchestra.rewards.advantage import standardise
from toolorchestra.rewards.component import Combiner, EpisodeComponents, GroupComponents, GroupReward
from toolorchestra.rewards.filters import GroupFilter
from toolorchestra.rewards.registry import CombinerMaker, RewardConfig
from toolorchestra.sandbox.program import Program
from toolorchestra.tasks.grader import Comparing, Grader, GraderFailure, GraderMaker, Sandboxed
from toolorchestra.tasks.source import SourceError, SourceMaker, TaskSource
from toolorchestra.tasks.task import GraderSpec, Split, Task, TaskKind
from toolorchestra.tools.catalog import ExpertTool, FunctionTool, ToolRefused
from toolorchestra.tools.view import Price

__all__ = [
    "ChatReply",
    "ChatRequest",
    "Combiner",
    "CombinerMaker",
    "Comparing",
    "EpisodeComponents",
    "ExpertError",
    "ExpertRefused",
    "ExpertTool",
    "ExpertUnavailable",
    "Experts",
    "FunctionExperts",
    "FunctionTool",
    "Grader",
    "GraderFailure",
    "GraderMaker",
    "GraderSpec",
    "GroupComponents",
    "GroupFilter",
    "GroupReward",
    "Message",
    "PluginError",
    "Price",
    "Program",
    "Reason",
    "Reserve",
    "RewardConfig",
    "Sandboxed",
    "SourceError",
    "SourceMaker",
    "Split",
    "Task",
    "TaskKind",
    "TaskSource",
    "ToolCall",
    "ToolRefused",
    "UnknownPool",
    "Usage",
    "standardise",
]
