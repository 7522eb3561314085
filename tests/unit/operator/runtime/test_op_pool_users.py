"""Which trainings hear of a pool's change."""

from __future__ import annotations

from typing import Any

from toolorchestra_operator.kubernetes.manifest import Key
from toolorchestra_operator.runtime.pool_users import PoolUsers


def training(name: str, *experts: str, namespace: str = "team", ended: bool = False) -> dict[str, Any]:
    conditions = [{"type": "Complete", "status": "True" if ended else "False"}]
    status = {"experts": [{"name": one} for one in experts], "conditions": conditions}
    return {
        "kind": "OrchestratorTraining",
        "metadata": {"name": name, "namespace": namespace, "uid": name},
        "status": status,
    }


def pool(name: str, *, ready: str = "True", generation: int = 1, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team", "uid": f"uid of {name}", "generation": generation}
    said = {"conditions": [{"type": "Ready", "status": ready}], **status}
    return {"kind": "ExpertPool", "metadata": metadata, "status": said}


def names(keys: tuple[Key, ...]) -> list[str]:
    assert all(key.kind == "OrchestratorTraining" for key in keys)
    return [key.name for key in keys]


def test_those_that_it_is_an_expert_of_and_those_that_look_for_experts() -> None:
    users = PoolUsers()
    known = [training("a", "small"), training("b", "large"), training("c"), training("d", "small", namespace="other")]
    for one in (*known, training("e", "small", ended=True)):
        assert users.saw(one, gone=False) == ()
    assert names(users.saw(pool("small"), gone=False)) == ["a", "c"]
    users.saw(training("c", "small"), gone=False)
    users.saw(training("a", "small"), gone=True)
    assert names(users.saw(pool("small"), gone=True)) == ["c"]


def test_only_what_trainings_are_told_is_news() -> None:
    users = PoolUsers()
    users.saw(training("a", "small"), gone=False)
    assert users.saw(pool("small"), gone=False)
    for same in (pool("small"), pool("small", replicas=3), pool("small", measured={"p50": 1})):
        assert not users.saw(same, gone=False)
    for other in (pool("small", ready="False"), pool("small", generation=2), pool("small", url="http://x")):
        assert users.saw(other, gone=False)
    assert users.saw(pool("small"), gone=True)
    assert not users.saw(pool("small"), gone=True)
