"""Conditions: when time moves, what is an event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from toolorchestra.api.conditions import TRAINING_CONDITION_ORDER, Reason
from toolorchestra_operator.planning.conditions import condition, merged, timestamp, transitions

NOW = datetime(2030, 1, 1, tzinfo=UTC)
kinds = st.sampled_from(TRAINING_CONDITION_ORDER)
statuses = st.sampled_from(["True", "False", "Unknown"])
conditions = st.dictionaries(kinds, st.tuples(statuses, st.sampled_from(list(Reason)), st.sampled_from(["", "x"]))).map(
    lambda found: [condition(kind, *rest) for kind, rest in found.items()]
)


@given(conditions, conditions)
def test_the_time_moves_with_the_status_alone(first: list[dict[str, str]], second: list[dict[str, str]]) -> None:
    before = merged((), first, now=NOW, generation=1)
    after = merged(before, second, now=NOW + timedelta(hours=1), generation=2)
    old, new = ({one["type"]: one for one in found} for found in (before, after))
    said = {one["type"] for one in second}
    for kind, one in new.items():
        changed = kind not in old or old[kind]["status"] != one["status"]
        assert one["lastTransitionTime"] == timestamp(NOW + timedelta(hours=1) if changed else NOW)
        assert one["observedGeneration"] == (2 if kind in said else 1)
    assert [o["type"] for o in after] == [kind for kind in TRAINING_CONDITION_ORDER if kind in new]


@given(conditions)
def test_saying_the_same_again_is_no_event(said: list[dict[str, str]]) -> None:
    before = merged((), said, now=NOW, generation=1)
    assert transitions(before, merged(before, said, now=NOW + timedelta(hours=1), generation=1)) == ()


def test_what_is_an_event() -> None:
    waiting = merged((), [condition("ClusterReady", "False", Reason.CLUSTER_STARTING, "a")], now=NOW, generation=1)
    worded = merged(waiting, [condition("ClusterReady", "False", Reason.CLUSTER_STARTING, "b")], now=NOW, generation=1)
    stuck = merged(waiting, [condition("ClusterReady", "False", Reason.UNSCHEDULABLE, "no GPU")], now=NOW, generation=1)
    failed = merged(stuck, [condition("Failed", "True", Reason.PROGRAM_FAILED, "boom")], now=NOW, generation=1)
    assert transitions((), waiting) == ()
    assert transitions(waiting, worded) == ()
    (event,) = transitions(waiting, stuck)
    assert (event.type, event.reason, event.message) == ("Warning", "Unschedulable", "ClusterReady=False: no GPU")
    (event,) = transitions(stuck, failed)
    assert (event.type, event.reason, event.message) == ("Warning", "ProgramFailed", "Failed=True: boom")
