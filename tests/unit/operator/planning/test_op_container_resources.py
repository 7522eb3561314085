"""What containers ask for: the spec's amounts, the chart's beside them, and which of them computes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolorchestra.api.accelerators import CLAIM, NONE, accelerator, mistakes
from toolorchestra.api.base import ComputeResources, Resources
from toolorchestra_operator.kubernetes.quantity import amount
from toolorchestra_operator.planning.container_resources import filled, of_preparation

DEFAULT = Resources(limits={"cpu": "4", "memory": "8Gi"}, requests={"cpu": "500m", "memory": "1Gi"})


@pytest.mark.parametrize(
    ("limits", "requests", "expected"),
    [
        ({}, {}, {"limits": {"cpu": "4", "memory": "8Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}),
        (
            {"memory": "512Mi"},
            {},
            {"limits": {"cpu": "4", "memory": "512Mi"}, "requests": {"cpu": "500m", "memory": "512Mi"}},
        ),
        (
            {},
            {"cpu": 8, "memory": "2Gi"},
            {"limits": {"cpu": 8, "memory": "8Gi"}, "requests": {"cpu": 8, "memory": "2Gi"}},
        ),
        (
            {"nvidia.com/gpu": 1},
            {},
            {
                "limits": {"nvidia.com/gpu": 1, "cpu": "4", "memory": "8Gi"},
                "requests": {"cpu": "500m", "memory": "1Gi"},
            },
        ),
    ],
)
def test_the_charts_amounts_fill_in_what_the_spec_leaves_out(limits: Any, requests: Any, expected: Any) -> None:
    assert filled(Resources(limits=limits, requests=requests), DEFAULT) == expected


def test_without_defaults_it_is_as_the_spec_says() -> None:
    assert filled(Resources()) == {}
    assert filled(Resources(limits={"cpu": 1})) == {"limits": {"cpu": 1}}


AMOUNTS = st.dictionaries(st.sampled_from(["cpu", "memory"]), st.sampled_from(["100m", 1, "2", "3Gi", "1e3"][:4]))


@given(AMOUNTS, AMOUNTS)
def test_no_request_is_above_its_limit_but_where_the_spec_says_so(limits: Any, requests: Any) -> None:
    found = filled(Resources(limits=limits, requests=requests), DEFAULT)
    for name in ("cpu", "memory"):
        assert name in found["limits"]
        assert name in found["requests"]
        if not (name in limits and name in requests):
            assert amount(found["requests"][name]) <= amount(found["limits"][name])


def test_preparing_takes_no_device() -> None:
    asked = {"limits": {"cpu": 1, "nvidia.com/gpu": 1}, "requests": {"nvidia.com/gpu": 1}, "claims": [{"name": "g"}]}
    assert of_preparation(asked) == {"limits": {"cpu": 1}}


@pytest.mark.parametrize(
    ("limits", "stated", "resource", "count"),
    [
        ({"nvidia.com/gpu": "2", "cpu": 1}, None, "nvidia.com/gpu", 2),
        ({"nvidia.com/mig-1g.10gb": 1}, None, "nvidia.com/mig-1g.10gb", 1),
        ({"habana.ai/gaudi": 8}, None, "habana.ai/gaudi", 8),
        ({"gpu.intel.com/xe": 1, "gpu.intel.com/tiles": 2}, None, "gpu.intel.com/xe", 1),
        ({"example.com/npu": 4, "nvidia.com/gpu": 1}, "example.com/npu", "example.com/npu", 4),
    ],
)
def test_what_computes_is_known_or_stated(limits: Any, stated: str | None, resource: str, count: int) -> None:
    wanted = ComputeResources(limits=limits, accelerator=stated)
    assert not list(mistakes(wanted))
    found = accelerator(wanted)
    assert found is not None
    assert (found.resource, found.count) == (resource, count)


@pytest.mark.parametrize(
    ("wanted", "claims"),
    [
        ({}, False),
        ({"limits": {"cpu": 4, "hugepages-2Mi": "1Gi", "ephemeral-storage": "1Gi"}}, False),
        ({"limits": {"nvidia.com/gpu": 0}}, False),
        ({"limits": {"smarter-devices/fuse": 1}, "accelerator": NONE}, False),
        ({"accelerator": NONE}, True),
    ],
)
def test_what_is_certain_to_run_on_the_cpu(wanted: Any, claims: bool) -> None:
    asked = ComputeResources(**wanted)
    assert not list(mistakes(asked, claims=claims))
    assert accelerator(asked) is None


def test_a_claimed_device_is_known_by_the_word_alone() -> None:
    asked = ComputeResources(accelerator=CLAIM)
    assert not list(mistakes(asked, claims=True))
    found = accelerator(asked)
    assert found is not None
    assert found.claimed
    assert found.count is None
