"""Trainers and engines on the same GPUs, with a real Ray that is told of GPUs: it counts them without touching one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from toolorchestra.gpus.placement import HALF
from toolorchestra.gpus.rooms import at, rooms, smallest_gpu

pytestmark = pytest.mark.real

PAIRS = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2 * PAIRS + 1, num_gpus=PAIRS, namespace="rooms", include_dashboard=False)
    yield
    ray.shutdown()


def test_each_pair_sees_one_gpu_that_no_other_sees(cluster: None) -> None:
    """All engines first, as in a run; without rooms Ray puts two of them on one GPU, and a trainer finds none."""

    class Sees:  # of this function, so that Ray sends it by value
        def gpu(self) -> str:
            return os.environ["CUDA_VISIBLE_DEVICES"]

    actor: Any = ray.remote(Sees)
    places = rooms(PAIRS, by_role=False)

    def started() -> list[Any]:
        return [actor.options(num_cpus=1, num_gpus=HALF, scheduling_strategy=at(places, i)).remote() for i in range(3)]

    engines = started()
    seen = ray.get([one.gpu.remote() for one in engines])
    trainers = started()
    assert ray.get([one.gpu.remote() for one in trainers]) == seen
    assert sorted(seen) == ["0", "1", "2"]
    assert rooms(PAIRS, by_role=False).id == places.id, "the next incarnation finds them"


def test_nodes_are_asked_for_their_gpus_even_where_all_are_taken(cluster: None) -> None:
    """Here Ray is told of GPUs that the driver does not know."""
    assert smallest_gpu() is None
