"""Which files of the installed packages go into the bundle: all but what these rules name, each with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

HOPPER, AMPERE = 90, 80
RAY_LIBRARIES = ("data", "llm", "rllib", "serve", "train", "tune")


@dataclass(frozen=True)
class Rule:
    """Files that stay behind: `paths` are patterns of paths below the site folder (`*` crosses `/`)."""

    why: str
    paths: tuple[str, ...]

    def matches(self, path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in self.paths)


ALWAYS = (
    Rule("compiled on the target", ("*.pyc",)),
    Rule(
        "the installer's own notes", ("*.dist-info/RECORD", "*.dist-info/REQUESTED", "*.dist-info/INSTALLER", ".lock")
    ),
    Rule("scripts that start the builder's Python", ("bin/*",)),
    Rule("tests", ("*/tests/*",)),
    Rule("sources and headers", ("*.pyi", "*.pyx", "*.pxd", "*.h", "*.hpp", "*.cuh", "*.cu", "*.cpp", "*.cc")),
    Rule(
        "vLLM: kernels of mixtures of experts, of multi-head latent attention and of 4-bit formats",
        (
            "vllm/_moe_C*.so",
            "vllm/_flashmla*.so",
            "vllm/_flashkda*.so",
            "vllm/_deepselect*.so",
            "vllm/_qutlass*.so",
            "vllm/third_party/deep_gemm/*",
            "vllm/third_party/fmha_sm100/*",
            "vllm/third_party/tml_fa4/*",
            "vllm/vllm_flash_attn/cute/*",
        ),
    ),
    Rule(
        "vLLM: tables for such kernels",
        ("vllm/model_executor/layers/*/configs/*.json", "vllm/kernels/helion/configs/*"),
    ),
    Rule("vLLM: a second front end, and benchmarks", ("vllm/vllm-rs", "vllm/benchmarks/datasets/*")),
    Rule("Ray: Java and C++ APIs, the dashboard's pages", ("ray/jars/*", "ray/cpp/*", "ray/dashboard/client/*")),
    Rule(
        "Ray: libraries on top of its core",
        tuple(f"ray/{name}/*" for name in RAY_LIBRARIES),
    ),
    Rule("tokenizers that no model here uses", ("mistral_common/data/*",)),
    Rule("translations of country names", ("pycountry/locales/*",)),
    Rule("examples and sources of small packages", ("bfi/examples/*", "tvm_ffi/3rdparty/*")),
    Rule("a second copy of zstd, for other Pythons", ("zstandard/_cffi*.so",)),
)

# FlashAttention comes as one library per generation of GPUs.
_ATTENTION = {2: "vllm/vllm_flash_attn/_vllm_fa2_C*.so", 3: "vllm/vllm_flash_attn/_vllm_fa3_C*.so"}

# Not meant to be loaded by address: their symbol tables are a fifth of the bundle.
STRIPPED = (
    "vllm/_C_stable_libtorch*.so",
    "vllm/vllm_flash_attn/*.so",
    "ray/_raylet.so",
    "ray/core/src/ray/raylet/raylet",
    "ray/core/src/ray/gcs/gcs_server",
)
PROGRAMS = ("bin/nats-server",)


def rules(architecture: int) -> tuple[Rule, ...]:
    """The rules for GPUs of `architecture` (90: Hopper; 0: any): FlashAttention 3 is for Hopper, 2 for others."""
    if architecture == 0:
        return ALWAYS
    version = 3 if architecture // 10 == HOPPER // 10 else 2
    others = tuple(path for number, path in _ATTENTION.items() if number != version)
    return (*ALWAYS, Rule("FlashAttention for other GPUs", others))


def selected(paths: Iterable[str], chosen: tuple[Rule, ...]) -> tuple[str, ...]:
    """The paths that go into the bundle, sorted; libraries first, so that alike bytes lie side by side."""
    kept = [path for path in paths if path in PROGRAMS or not any(rule.matches(path) for rule in chosen)]
    return tuple(sorted(kept, key=lambda path: (not path.endswith(".so"), path)))


def is_stripped(path: str) -> bool:
    """Whether a library's symbol table may go; not where a tool has moved its sections, as in wheels' `.libs`."""
    return any(fnmatchcase(path, pattern) for pattern in STRIPPED)
