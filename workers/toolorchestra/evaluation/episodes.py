"""Sample episodes for the report: a right and a wrong one, in readable form."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from toolorchestra.evaluation.plots import dollars
from toolorchestra.rollout.trace import Sample, Trace

CLIP = 1500
"""How many characters of a text are shown."""

Decode = Callable[[Sequence[int]], str]


def clip(text: str) -> str:
    """Return the text; the middle of a long text is left out."""
    if len(text) <= CLIP:
        return text
    return f"{text[: CLIP // 2]}\n… {len(text) - CLIP} characters left out …\n{text[-CLIP // 2 :]}"


def pick(traces: Sequence[Trace]) -> list[Trace]:
    """Return a right and a wrong episode: with many turns, and then from the middle of the run."""
    chosen = []
    for right in (True, False):
        fitting = [t for t in traces if t.components.outcome is not None and (t.components.outcome >= 1) is right]
        fitting = [t for t in fitting if t.turns] or fitting
        if fitting:
            chosen.append(
                max(fitting, key=lambda t: (min(len(t.turns), 3), -abs(fitting.index(t) - len(fitting) // 2)))
            )
    return chosen


def find_decoder(run: Path, *, model: Path | None = None) -> Decode | None:
    """Return a function from token ids to text; None where no tokenizer is found.

    The tokenizer is that of `model`, or else of the run's export, weights, checkpoints or base model.
    """
    folders = [run / name for name in ("export/best", "export/last", "weights", "checkpoints")]
    folders = [*folders, *_base_model(run)] if model is None else [model]
    found = (path for folder in folders for path in sorted(folder.rglob("tokenizer.json"))[-1:])
    path = next(found, None)
    if path is None:
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))


def _base_model(run: Path) -> list[Path]:
    """Return the model folder from the driver's configuration, if it exists on this machine."""
    told = run / "driver.json"
    folder = Path(json.loads(told.read_text(encoding="utf-8")).get("model_dir", "")) if told.is_file() else None
    return [folder] if folder is not None and folder.is_absolute() and folder.is_dir() else []


def prompt_of(sample: Sample, decode: Decode) -> str:
    """Return the text before the policy's first token of the sample."""
    ids: list[int] = []
    for segment in sample.segments:
        if segment.trained or segment.logprobs:
            break
        ids += segment.token_ids
    return decode(ids)


def readable(trace: Trace, *, decode: Decode | None) -> dict[str, Any]:
    """Return the episode as the template's data."""
    measured = trace.components
    right = measured.outcome is not None and measured.outcome >= 1
    versions = sorted({s.version for sample in trace.samples for s in sample.segments if s.version})
    return {
        "verdict": "right" if right else "wrong",
        "issue": trace.issue,
        "task": trace.task_id,
        "topic": trace.topic,
        "instruction": clip(trace.instruction),
        "purpose": trace.purpose,
        "ending": trace.ending.value,
        "detail": trace.detail,
        "answer": clip(trace.answer or ""),
        "cost": dollars(float(measured.cost_usd)),
        "seconds": f"{measured.service_seconds:.1f}",
        "versions": ", ".join(versions),
        "preference": trace.view.preference.instruction if trace.view.preference else "",
        "prompt": clip(prompt_of(trace.samples[0], decode)) if decode and trace.samples else "",
        "experts": [
            {
                "alias": e.alias,
                "pool": e.pool,
                "description": e.description,
                "price_in": f"{e.price.input_usd_per_million_tokens:f}",
                "price_out": f"{e.price.output_usd_per_million_tokens:f}",
                "latency": f"{e.latency_ms / 1000:.1f}",
            }
            for e in trace.view.experts
        ],
        "turns": [
            {
                "text": clip(turn.text),
                "rejection": turn.rejection,
                "cost": dollars(float(turn.meter.nominal_usd)),
                "calls": [
                    {
                        "alias": call.alias or call.name,
                        "name": call.name,
                        "tool": call.tool,
                        "status": call.status,
                        "observation": clip(call.observation),
                        "cost": dollars(float(call.meter.nominal_usd)),
                        "seconds": f"{call.meter.service_seconds:.1f}",
                    }
                    for call in turn.calls
                ],
            }
            for turn in trace.turns
        ],
    }
