"""Which GPUs trainers and engines get, by `spec.ray` and the GPUs that there are."""

from __future__ import annotations

import re
from typing import Any

import pytest

from toolorchestra.api.cluster import Ray
from toolorchestra.gpus.placement import Placement, PlacementError, asked, on_machine


def ray(*, trainers: int = 1, engines: int = 1, shards: int = 1, placement: str | None = None) -> Ray:
    found: dict[str, Any] = {
        "trainers": {"replicas": trainers},
        "engines": {"replicas": engines, "tensorParallelSize": shards},
    }
    return Ray.model_validate(found | ({"placement": placement} if placement else {}))


@pytest.mark.parametrize(
    ("wanted", "gpus", "used", "shared"),
    [
        (ray(), 1, 1, True),
        (ray(), 2, 2, False),
        (ray(), 8, 2, False),
        (ray(placement="Shared"), 8, 1, True),
        (ray(trainers=2, engines=2, shards=3), 8, 8, False),
        (ray(trainers=4, engines=4, placement="Shared"), 4, 4, True),
    ],
)
def test_what_the_file_says_holds_and_the_only_gpu_is_shared(wanted: Ray, gpus: int, used: int, shared: bool) -> None:
    found = on_machine(wanted, gpus=gpus)
    assert (found.gpus, found.shared) == (used, shared)


@pytest.mark.parametrize(
    ("wanted", "gpus", "said"),
    [
        (
            ray(trainers=2, engines=3, shards=2),
            4,
            "spec.ray needs 8 GPUs (2 trainers, 3 engines of 2 GPUs), but this machine has 4: reduce",
        ),
        (
            ray(trainers=2, engines=2),
            3,
            "set spec.ray.placement: Shared or reduce spec.ray.trainers.replicas + spec.ray.engines.replicas to 3",
        ),
        (
            ray(placement="Separate"),
            1,
            "needs 2 GPUs (1 trainer, 1 engine), but this machine has 1: set spec.ray.placement: Shared",
        ),
        (
            ray(trainers=2, engines=2, placement="Shared"),
            1,
            "(a trainer and an engine on each), but this machine has 1: set spec.ray.trainers.replicas and",
        ),
        (
            ray(trainers=2),
            1,
            "needs 3 GPUs (2 trainers, 1 engine), but this machine has 1: set spec.ray.trainers.replicas,",
        ),
        (ray(trainers=2, placement="Shared"), 1, "trainers.replicas equal to engines.replicas (2 and 1 here)"),
        (ray(shards=2), 1, "and leave spec.ray.placement out: trainer and engine then share the GPU"),
        (ray(shards=2, placement="Shared"), 1, "tensorParallelSize 1 (2 here)"),
    ],
)
def test_what_does_not_fit_is_one_line_with_what_to_change(wanted: Ray, gpus: int, said: str) -> None:
    with pytest.raises(PlacementError, match=re.escape(said)) as caught:
        on_machine(wanted, gpus=gpus)
    assert "\n" not in str(caught.value)


def test_sharing_is_not_proposed_where_it_could_not_be() -> None:
    with pytest.raises(PlacementError) as caught:
        on_machine(ray(trainers=2, engines=3), gpus=3)
    assert "Shared" not in str(caught.value)


@pytest.mark.parametrize("wanted", [ray(trainers=2), ray(engines=2), ray(shards=2)])
def test_who_never_wrote_of_sharing_is_not_told_of_its_rules(wanted: Ray) -> None:
    with pytest.raises(PlacementError) as caught:
        on_machine(wanted, gpus=1)
    assert "Shared" not in str(caught.value)


def test_what_ray_is_asked_for() -> None:
    apart = asked(ray(trainers=2, engines=1, shards=4), shared=False)
    assert (apart.gpus_per_trainer, apart.gpus_per_engine) == (1.0, 4.0)
    together = Placement(shared=True, trainers=1, engines=1)
    assert together.gpus_per_trainer + together.gpus_per_engine == 1.0, "they fill one GPU"
