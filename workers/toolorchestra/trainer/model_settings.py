"""Reads a model folder's `config.json` as transformers does. The check before a run and the trainer both use it.

Values that the file omits are defaults of the family, and a model may be refused because of one. So transformers reads
the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolorchestra.policy.model_file import ModelFileError, read_object
from toolorchestra.trainer.refusals import refusals

NAME = "config.json"


def read_settings(folder: Path) -> Any:
    """Return the settings as a transformers config. ModelFileError, with the file's name, if it cannot be read."""
    file = folder / NAME
    if not file.exists():
        raise ModelFileError(f"{folder}: no {NAME} there: not a model folder")
    read_object(file)  # for a damaged file, transformers' own error does not say what is wrong
    from transformers import AutoConfig  # imports torch, which takes seconds: only if there is a model to read

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library reads an unknown file and can raise anything
        raise ModelFileError(f"{file}: transformers cannot read it: {_short(error)}") from error


def language_settings(settings: Any) -> Any:
    """Return the settings of the language model, also if the folder contains more than that."""
    return settings.get_text_config(decoder=True)


def vocabulary_of(settings: Any) -> int | None:
    """Return the number of tokens for which the model has embeddings, if its settings say so."""
    size = getattr(language_settings(settings), "vocab_size", None)
    return size if isinstance(size, int) else None


def why_refused(settings: Any, *, longest: int | None) -> str | None:
    """Return, in one sentence, why the trainer refuses a model with these settings; None if it does not.

    `longest`: tokens of the longest document of the run, if known.
    """
    reasons = list(refusals(language_settings(settings), longest=longest))
    if (how := getattr(settings, "quantization_config", None)) is not None:
        method = how.get("quant_method", "") if isinstance(how, dict) else ""
        quantized = f"its weights are quantized ({method or 'quantization_config'})"
        reasons.append(f"{quantized}, and quantized weights cannot be trained: use the model that it was made from")
    return f"a model of type {settings.model_type} cannot be trained here: {'; '.join(reasons)}" if reasons else None


def _short(error: Exception) -> str:
    """Return the first paragraph of a message that may be a page long."""
    said = " ".join(str(error).split("\n\n")[0].split())
    return said or type(error).__name__
