"""Download a model into a pod's volume: `python -m toolorchestra.pods.fetch hf://owner/name --into DIR`.

An init container runs it: if a model cannot be downloaded, the pod's message says so, and no other process crashes.
Existing files are not downloaded again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

TOKENIZER_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
WEIGHT_FILES = ("*.safetensors",)


def main(argv: Sequence[str] | None = None) -> None:
    """Download the model; exit with status 1 and the hub's message where that fails. The token is in HF_TOKEN."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("uri", help="hf://owner/name")
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--revision")
    parser.add_argument("--tokenizer-only", action="store_true", help="no weights; enough for a rollout worker")
    args = parser.parse_args(argv)
    scheme, _, repository = args.uri.partition("://")
    if scheme != "hf":
        parser.error(f"{args.uri}: only hf:// URIs can be downloaded")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = TOKENIZER_FILES if args.tokenizer_only else (*TOKENIZER_FILES, *WEIGHT_FILES)
    try:
        snapshot_download(repository, revision=args.revision, local_dir=args.into, allow_patterns=list(patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        print(f"{args.uri}: cannot be downloaded: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{args.uri} is in {args.into}")


if __name__ == "__main__":
    main()
