"""Refuses models whose settings ask for something that the trainer does not compute, before anything runs. Pure.

What no setting shows is found by the comparison at the start (agreement.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PACKABLE_LAYERS = frozenset({"full_attention", "sliding_attention", "attention", "mlp", "moe"})
"""Layer types that can be computed on packed documents. Other layers carry a state from token to token, and so from one
document into the next (linear attention, convolutions), or attend differently (in chunks, to chosen blocks)."""
LENGTH_DEPENDENT_ROPES = frozenset({"dynamic", "longrope"})
"""Rotary embeddings whose angles depend on the longest document of the batch, if it is longer than the first context.
"""


def refusals(config: Any, *, longest: int | None = None) -> Iterator[str]:
    """Yield why a model with these settings (a transformers config) cannot be trained here; nothing if it can.

    `longest`: tokens of the longest document of the run, if known.
    """
    for name, value in vars(config).items():
        if name.startswith(("classifier", "summary")):
            continue  # settings of other heads
        if "dropout" in name or name.endswith(("pdrop", "layerdrop")):
            if isinstance(value, int | float) and value:
                yield f"{name}={value}: dropout makes trainer and engine disagree; set it to 0 in config.json"
        elif name.endswith("jitter_noise") and value:
            yield f"{name}={value}: noise in the router makes trainer and engine disagree; set it to 0 in config.json"
    if getattr(config, "is_encoder_decoder", False):
        yield "it is an encoder-decoder model: only decoders can be trained"
    if strange := sorted(_layer_types(config) - PACKABLE_LAYERS):
        yield (
            f"it has layers of type {', '.join(strange)}, which are not computed here: they join packed documents, or "
            "use another kind of attention"
        )
    yield from _ropes(config, longest)


def _layer_types(config: Any) -> set[str]:
    for name in ("layer_types", "layers_block_type", "block_types"):
        if types := getattr(config, name, None):
            return set(types)
    return set()


def _ropes(config: Any, longest: int | None) -> Iterator[str]:
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, Mapping):
        return
    for rope in (parameters, *(value for value in parameters.values() if isinstance(value, Mapping))):
        kind = rope.get("rope_type")
        if kind in LENGTH_DEPENDENT_ROPES:
            first = rope.get("original_max_position_embeddings") or config.max_position_embeddings
            if longest is not None and longest > first:
                yield (
                    f"its rotary embedding is of type {kind}: beyond {first} tokens its angles depend on the longest "
                    f"document of a batch, and here one may have {longest}; reduce rollout.maxPromptTokens or "
                    "rollout.maxResponseTokens"
                )
