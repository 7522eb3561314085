"""All span and attribute names, in one module: the GenAI conventions are unstable, and none of these is a contract.

`gen_ai.*` follow https://opentelemetry.io/docs/specs/semconv/gen-ai/ ; what it has no word for is `toolorchestra.*`.
Prompts, completions and task texts are never attributes: the trace id joins a span with the stored trace.
"""

from __future__ import annotations

INSTRUMENTATION = "toolorchestra"

# Spans. `chat` and `execute_tool` are completed with the model's or the tool's name.
EPISODE = "episode"
INVOKE_AGENT = "invoke_agent"
TURN = "turn"
CHAT = "chat"
EXECUTE_TOOL = "execute_tool"
GRADE = "grade"
TRAIN_STEP = "train_step"
RECONCILE = "reconcile"

# Who and what.
TRAINING = "toolorchestra.training"
TASK = "toolorchestra.task"
GROUP = "toolorchestra.group"
SAMPLE = "toolorchestra.sample"
ISSUE = "toolorchestra.issue"
PURPOSE = "toolorchestra.purpose"
DELIVERY = "toolorchestra.delivery"
POOL = "toolorchestra.pool"
ALIAS = "toolorchestra.alias"
TURN_NUMBER = "toolorchestra.turn"
STEP = "toolorchestra.step"
NAMESPACE = "k8s.namespace.name"
ACTIONS = "toolorchestra.actions"
"""Kinds of what a reconcile's plan did, in order."""

# How it went.
POLICY_VERSION = "toolorchestra.policy_version"
STALENESS = "toolorchestra.staleness"
ENDING = "toolorchestra.ending"
COMPONENT = "toolorchestra.component"
"""Prefix of one attribute per reward component."""
NOMINAL_USD = "toolorchestra.usd.nominal"
ACTUAL_USD = "toolorchestra.usd.actual"
SERVICE_SECONDS = "toolorchestra.service_seconds"
GRADER = "toolorchestra.grader"
SCORE = "toolorchestra.score"

# GenAI conventions and general ones.
OPERATION = "gen_ai.operation.name"
REQUEST_MODEL = "gen_ai.request.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
FINISH_REASONS = "gen_ai.response.finish_reasons"
TOOL_NAME = "gen_ai.tool.name"
TOOL_CALL_ID = "gen_ai.tool.call.id"
AGENT_NAME = "gen_ai.agent.name"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
