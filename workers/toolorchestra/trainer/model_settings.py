"""A model folder's `config.json` as transformers reads it: one reader for the check and for the trainer.

What the file leaves out is the family's default, and a model may be refused for one of those: so transformers is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolorchestra.policy.model_file import ModelFileError, read_object
from toolorchestra.trainer.refusals import refusals

NAME = "config.json"


def read_settings(folder: Path) -> Any:
    """The settings, a transformers config. ModelFileError with the file's name where it cannot be read as one."""
    file = folder / NAME
    if not file.exists():
        raise ModelFileError(f"{folder}: no {NAME} there: not a model folder")
    read_object(file)  # transformers' own words for a damaged file do not say what is wrong with it
    from transformers import AutoConfig  # with torch: seconds, which only those wait who have a model to read

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a library reads somebody's file: it raises what it likes
        raise ModelFileError(f"{file}: transformers cannot read it: {_short(error)}") from error


def language_settings(settings: Any) -> Any:
    """Those of the language model, also where the folder holds more than that."""
    return settings.get_text_config(decoder=True)


def vocabulary_of(settings: Any) -> int | None:
    """Tokens that the model has embeddings for, where its settings say so."""
    size = getattr(language_settings(settings), "vocab_size", None)
    return size if isinstance(size, int) else None


def why_refused(settings: Any, *, longest: int | None) -> str | None:
    """Why the trainer does not start with a model of these settings, in one sentence; None where nothing forbids it.

    `longest`: tokens of the longest document that it will be given, where that is known.
    """
    reasons = list(refusals(language_settings(settings), longest=longest))
    if (how := getattr(settings, "quantization_config", None)) is not None:
        method = how.get("quant_method", "") if isinstance(how, dict) else ""
        quantized = f"its weights are quantized ({method or 'quantization_config'})"
        reasons.append(f"{quantized}, and such are not trained: take the model that it was made from")
    return f"a model of type {settings.model_type} cannot be trained here: {'; '.join(reasons)}" if reasons else None


def _short(error: Exception) -> str:
    """The first sentence of what can be a page of advice."""
    said = " ".join(str(error).split("\n\n")[0].split())
    return said or type(error).__name__
