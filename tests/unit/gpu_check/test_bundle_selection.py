"""What goes into the bundle, by path; and which packages, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

import gpu.bundle.packages as packages
from gpu.bundle.selection import is_stripped, rules, selected

FOLDER = Path(packages.__file__).parent
ATTENTION = tuple(f"vllm/vllm_flash_attn/_vllm_fa{number}_C.abi3.so" for number in (2, 3))


@pytest.mark.parametrize(
    "path",
    [
        "vllm/_moe_C_stable_libtorch.abi3.so",
        "vllm/third_party/deep_gemm/include/deep_gemm/common/epilogue.cuh",
        "vllm/vllm-rs",
        "ray/jars/ray_dist.jar",
        "ray/dashboard/client/build/index.html",
        "numpy/core/tests/test_array.py",
        "torch/x.pyi",
        "bin/uvicorn",
        "x-1.0.dist-info/RECORD",
    ],
)
def test_stays_behind(path: str) -> None:
    assert selected([path], rules(90)) == ()


@pytest.mark.parametrize(
    "path",
    [
        "vllm/_C_stable_libtorch.abi3.so",
        "vllm/entrypoints/openai/api_server.py",
        "vllm/third_party/pynvml.py",
        "vllm/model_executor/layers/quantization/utils/configs.py",
        "ray/dashboard/agent.py",
        "ray/core/src/ray/raylet/raylet",
        "reasoning_gym/data/words.txt",
        "hypothetical/testing/tools.py",
        "bin/nats-server",
        "x-1.0.dist-info/METADATA",
        "x-1.0.dist-info/entry_points.txt",
        "x-1.0.dist-info/licenses/LICENSE",
    ],
)
def test_goes_along(path: str) -> None:
    assert selected([path], rules(90)) == (path,)


@pytest.mark.parametrize(("architecture", "number"), [(80, 2), (89, 2), (90, 3), (100, 2)])
def test_one_flash_attention_goes_along(architecture: int, number: int) -> None:
    assert selected(ATTENTION, rules(architecture)) == (ATTENTION[number - 2],)


def test_every_flash_attention_goes_along_where_the_gpu_is_not_known() -> None:
    assert selected(ATTENTION, rules(0)) == ATTENTION


def test_libraries_lie_together() -> None:
    assert selected(["b.py", "z.so", "a.py", "c.so"], rules(90)) == ("c.so", "z.so", "a.py", "b.py")


def test_no_library_that_a_wheel_s_tool_has_changed_is_stripped() -> None:
    assert is_stripped("ray/_raylet.so")
    assert not is_stripped("pyzmq.libs/libzmq-2f02442c.so.5.2.5")


def test_names_are_compared_as_registries_do() -> None:
    assert packages.names(["Typing_Extensions", "nvidia.cublas==1.2", "a--b"]) == {
        "typing-extensions",
        "nvidia-cublas",
        "a-b",
    }


def test_a_list_of_packages_has_comments() -> None:
    assert packages.bundle_lines("# why\ntorch==2.11.0  # here\n\nnumpy\n") == ("torch==2.11.0", "numpy")


def test_what_is_left_out_never_applies() -> None:
    assert packages.overrides(["b==1", "A"]) == 'a ; python_version < "0"\nb ; python_version < "0"\n'


def test_a_lock_s_versions() -> None:
    assert packages.pins("a==1 \\\n    --hash=sha256:00\n# via b==2\nc-d==3.0+cpu ; x\n") == {
        "a": "1",
        "c-d": "3.0+cpu",
    }


@pytest.mark.parametrize("name", ["torch", "cuda-image"])
def test_no_package_is_both_provided_and_left_out(name: str) -> None:
    provided = packages.names(packages.bundle_lines((FOLDER / "provided" / f"{name}.txt").read_text()))
    left_out = packages.names(packages.bundle_lines((FOLDER / "left-out.txt").read_text()))
    assert "torch" in provided
    assert not provided & left_out
