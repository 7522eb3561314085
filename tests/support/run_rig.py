"""A run's folder without a training in it, and a process that holds its lock as a supervisor does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import Result
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from typer.testing import CliRunner

from toolorchestra.cli.main import app
from toolorchestra.runs.run_dir import RunDir

HOLDER = """
import json, signal, sys
from pathlib import Path
from toolorchestra.local.lock import RunLock
from toolorchestra.runs.run_dir import RunDir

run = RunDir(Path(sys.argv[1]))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
with RunLock(run):
    print("held", flush=True)
    signal.sigwait({signal.SIGTERM})
    run.set_status(run.read_status() | {"state": "Cancelled", "message": "stopped at step 3"})
"""


def make_run(folder: Path, *, name: str = "demo-1", **status: Any) -> RunDir:
    """A run that says `status` of itself."""
    run = RunDir(folder / name)
    run.root.mkdir(parents=True)
    run.manifest.write_text(json.dumps({"name": "demo", "options": {}}))
    if status:
        run.set_status(status)
    return run


@contextmanager
def held(run: RunDir) -> Iterator[subprocess.Popen[str]]:
    """Another process runs it; on SIGTERM it does what a supervisor does, then ends."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.root)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def orchestra(*arguments: object, status: int = 0) -> Result:
    """Run a command that is expected to end with `status`, without a traceback."""
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == status, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), "a mistake is no traceback"
    return done


def model_folder(folder: Path, *, context: int = 4096) -> Path:
    """What a plan looks at: a configuration, a tokenizer, a chat template, and weights that hold no tensor."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", "max_position_embeddings": context}))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    template = "{% for message in messages %}{{ message['content'] }}<end>{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    return folder


def endpoint_pool(name: str, *, url: str = "http://simulator/v1", model: str, key: str | None = None) -> dict[str, Any]:
    """The document of an expert behind an address; `key`: the Secret that holds its API key."""
    endpoint: dict[str, object] = {"url": url, "model": model}
    if key is not None:
        endpoint["apiKeySecretRef"] = {"name": key, "key": "api-key"}
    return {
        "apiVersion": "toolorchestra.dev/v1alpha1",
        "kind": "ExpertPool",
        "metadata": {"name": name},
        "spec": {
            "roles": ["Answer"],
            "description": "An expert.",
            "price": {"inputUSDPerMillionTokens": "1", "outputUSDPerMillionTokens": "2"},
            "expectedLatencyMilliseconds": 500,
            "type": "Endpoint",
            "endpoint": endpoint,
        },
    }
