"""A pool that says nothing but HTTP 400 is misconfigured; one that ever serves is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from toolorchestra.experts.errors import Reason
from toolorchestra.experts.pool_health import MOST_CALLS, MOST_TASKS, PoolHealth, PoolsHealth

calls = st.lists(
    st.one_of(
        st.tuples(st.just("refused"), st.just(Reason.BAD_REQUEST)),
        st.tuples(st.just("refused"), st.sampled_from([Reason.EMPTY, Reason.INPUT_TOO_LONG, Reason.CONTENT_FILTER])),
        st.tuples(st.just("unavailable"), st.sampled_from([Reason.THROTTLED, Reason.CONNECTION])),
        st.tuples(st.just("ok"), st.none()),
    ),
    max_size=80,
)
SERVED = {(None, "ok"), (Reason.EMPTY, "refused"), (Reason.CONTENT_FILTER, "refused")}


@given(calls, st.integers(1, 6))
def test_only_a_pool_that_never_serves_is_blamed(made: list[tuple[str, Reason | None]], tasks: int) -> None:
    standing, since = PoolHealth(), []
    for number, (status, reason) in enumerate(made):
        task = f"task {number % tasks}"
        standing = standing.after(status=status, reason=reason, task=task)
        since = [] if (reason, status) in SERVED else [*since, (reason, task)]
        bad = [task for reason, task in since if reason is Reason.BAD_REQUEST]
        assert standing.misconfigured == (len(bad) >= MOST_CALLS and len(set(bad)) >= MOST_TASKS)


def test_one_odd_task_blames_nobody() -> None:
    standings = PoolsHealth()
    for _ in range(10 * MOST_CALLS):
        standings = standings.after("oak", status="refused", reason=Reason.BAD_REQUEST, task="odd")
    assert standings.blame("oak", said="bad") is None
    assert standings.blame("elm", said="bad") is None


def test_a_person_is_told_what_the_pool_said() -> None:
    standings = PoolsHealth()
    for number in range(MOST_CALLS):
        assert standings.blame("oak", said="roles must alternate") is None
        standings = standings.after("oak", status="refused", reason=Reason.BAD_REQUEST, task=str(number))
    told = standings.blame("oak", said="roles must alternate")
    assert told is not None
    assert f"expert oak answered the last {MOST_CALLS} calls" in told
    assert "roles must alternate" in told
    assert standings.blame("elm", said="") is None
