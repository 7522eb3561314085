"""Download a model into a pod's volume: `python -m toolorchestra.pods.fetch hf://owner/name --into DIR`.

An init container's work, so that a model that cannot be had is that pod's message and nobody's crash. What is there
already is not fetched again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

TOKENIZER_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
WEIGHT_FILES = ("*.safetensors",)


def main(argv: Sequence[str] | None = None) -> None:
    """Exit status 1 with the hub's words where it cannot be fetched; the token comes from HF_TOKEN."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("uri", help="hf://owner/name")
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--revision")
    parser.add_argument("--tokenizer-only", action="store_true", help="no weights: all that a rollout worker needs")
    args = parser.parse_args(argv)
    scheme, _, repository = args.uri.partition("://")
    if scheme != "hf":
        parser.error(f"{args.uri}: only hf:// is downloaded")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = TOKENIZER_FILES if args.tokenizer_only else (*TOKENIZER_FILES, *WEIGHT_FILES)
    try:
        snapshot_download(repository, revision=args.revision, local_dir=args.into, allow_patterns=list(patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        print(f"{args.uri}: cannot be fetched: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{args.uri} is in {args.into}")


if __name__ == "__main__":
    main()
