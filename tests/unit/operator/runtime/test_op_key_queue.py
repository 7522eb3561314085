"""The queue of keys: nothing is lost, nothing is at work twice, nothing spins; back-off grows and starts anew."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from toolorchestra_operator.kubernetes.backoff import Backoff
from toolorchestra_operator.kubernetes.manifest import Key
from toolorchestra_operator.runtime.key_queue import KeyQueue

KEYS = [Key("OrchestratorTraining", "a", "one"), Key("OrchestratorTraining", "b", "one"), Key("ExpertPool", "a", "one")]
SPACING = 0.25
MOST = 1
keys = st.sampled_from(KEYS)
delays = st.sampled_from([0.0, 0.125, 0.5, 1.0, 8.0])


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class QueueMachine(RuleBasedStateMachine):
    """The queue against what is known of each key: until when it must be looked at, and since when it may be."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue = KeyQueue(clock=self.clock, spacing=SPACING, most=MOST)
        self.wanted: dict[Key, float] = {}
        """The earliest time for which a look is asked."""
        self.may: dict[Key, float] = {}
        """The earliest time of the next look."""
        self.working: set[Key] = set()

    def at(self, key: Key) -> float:
        return max(self.wanted[key], self.may.get(key, 0.0))

    def due(self) -> set[Key]:
        return {key for key in self.wanted if key not in self.working and self.at(key) <= self.clock.now}

    def is_full(self, key: Key) -> bool:
        return sum(one.namespace == key.namespace for one in self.working) >= MOST

    @rule(key=keys, after=delays)
    def add(self, key: Key, after: float) -> None:
        self.queue.add(key, after=after)
        self.wanted[key] = min(self.wanted.get(key, float("inf")), self.clock.now + after)

    @rule(seconds=st.sampled_from([0.0625, 0.125, 0.25, 1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def take(self) -> None:
        due = {key for key in self.due() if not self.is_full(key)}
        key = self.queue.take()
        assert (key is None) == (not due), f"due are {due}, taken was {key}"
        if key is None:
            return
        assert key not in self.working, f"{key} is at work twice"
        assert key in due, f"{key} was taken before its time"
        # Nothing of its namespace that could have been taken has waited longer.
        assert self.at(key) == min(self.at(one) for one in due if one.namespace == key.namespace)
        self.working.add(key)
        del self.wanted[key]

    @precondition(lambda self: self.working)
    @rule(data=st.data(), hold=delays)
    def done(self, data: st.DataObject, hold: float) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        self.queue.done(key, hold=hold)
        self.working.remove(key)
        self.may[key] = self.clock.now + max(hold, SPACING)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert all(key in self.queue for key in self.wanted)

    @invariant()
    def the_figures_are_right(self) -> None:
        waiting = [key for key in self.working if key in self.wanted and self.wanted[key] <= self.clock.now]
        assert self.queue.depth == len(self.due()) + len(waiting)

    @invariant()
    def it_wakes_up_in_time_and_not_before(self) -> None:
        ahead = [self.at(key) for key in self.wanted if key not in self.working and not self.is_full(key)]
        sleep = self.queue.wait()
        if not ahead:
            # A key that may not be taken yet is in the queue, but wakes nobody who could take it in vain.
            assert sleep is None or self.wanted
        else:
            assert sleep is not None
            assert self.clock.now + sleep <= max(min(ahead), self.clock.now)

    def teardown(self) -> None:
        """Whatever happened: everything that was asked for is taken in the end."""
        for key in list(self.working):
            self.queue.done(key)
        missing = set(self.wanted)
        for _ in range(50):
            self.clock.now += 1.0
            while (key := self.queue.take()) is not None:
                missing.discard(key)
                self.queue.done(key)
        assert not missing
        assert self.queue.wait() is None, "something is still to be looked at that nobody asked for"


TestQueue = QueueMachine.TestCase


def test_a_storm_of_events_is_one_look_now_and_one_after_it() -> None:
    clock = Clock()
    queue = KeyQueue(clock=clock, spacing=SPACING)
    for _ in range(100):
        queue.add(KEYS[0])
    assert queue.take() == KEYS[0]
    for _ in range(100):
        queue.add(KEYS[0])
    assert queue.take() is None
    queue.done(KEYS[0])
    assert queue.take() is None, "no second look without a pause"
    clock.now += SPACING
    assert queue.take() == KEYS[0]
    queue.done(KEYS[0])
    clock.now += 100
    assert queue.take() is None


def pool(namespace: str, number: int) -> Key:
    return Key("ExpertPool", namespace, str(number))


def test_namespaces_take_turns_whatever_they_have_in_the_queue() -> None:
    clock = Clock()
    queue = KeyQueue(clock=clock)
    for namespace, number in (("a", 40), ("b", 2), ("c", 1)):
        for key in range(number):
            queue.add(pool(namespace, key))
            clock.now += 1.0
    taken = [queue.take() for _ in range(6)]
    assert taken == [pool("a", 0), pool("b", 0), pool("c", 0), pool("a", 1), pool("b", 1), pool("a", 2)]
    queue.add(pool("d", 0))
    assert [queue.take(), queue.take()] == [pool("a", 3), pool("d", 0)]


async def test_a_namespace_never_has_all_of_the_workers() -> None:
    queue = KeyQueue(spacing=0.0, most=2)
    for number in range(40):
        queue.add(pool("a", number))
    assert [await queue.get(), await queue.get()] == [pool("a", 0), pool("a", 1)]
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert queue.wait() is None, "nothing to be tried again until something happens"
    assert queue.depth == 38
    queue.add(pool("b", 0))
    assert await waiting == pool("b", 0)
    another = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.done(pool("a", 0))
    assert await another == pool("a", 2)


def test_a_later_wish_beside_an_earlier_one_does_not_shorten_the_pause() -> None:
    clock = Clock()
    queue = KeyQueue(clock=clock, spacing=SPACING)
    queue.add(KEYS[0])
    assert queue.take() == KEYS[0]
    queue.add(KEYS[0])
    queue.add(KEYS[0], after=SPACING / 2)
    queue.done(KEYS[0])
    clock.now += SPACING / 2
    assert queue.take() is None
    clock.now += SPACING / 2
    assert queue.take() == KEYS[0]


def test_delays_that_earlier_events_made_void_do_not_pile_up() -> None:
    clock = Clock()
    queue = KeyQueue(clock=clock, spacing=0.0)
    for _ in range(10_000):
        queue.add(KEYS[0], after=300.0)
        queue.add(KEYS[0])
        assert queue.take() == KEYS[0]
        queue.done(KEYS[0])
        clock.now += 0.001
    assert len(queue._heap) < 200


def test_age_is_that_of_the_oldest_wait_or_look() -> None:
    clock = Clock()
    queue = KeyQueue(clock=clock)
    assert queue.oldest == 0
    queue.add(KEYS[0], after=5.0)
    queue.add(KEYS[1])
    clock.now += 6.0
    assert queue.oldest == 6.0
    assert queue.take() == KEYS[1]
    clock.now += 10.0
    assert queue.oldest == 11.0, "the other one has been due since second 5"


async def test_waiting_for_a_key_ends_with_an_event_and_with_a_delay() -> None:
    queue = KeyQueue(spacing=0.0)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add(KEYS[0])
    assert await waiting == KEYS[0]
    queue.add(KEYS[1], after=0.01)
    assert await asyncio.wait_for(queue.get(), 10) == KEYS[1]


async def test_many_waiters_share_the_keys() -> None:
    queue = KeyQueue(spacing=0.0)
    waiting = [asyncio.create_task(queue.get()) for _ in KEYS]
    await asyncio.sleep(0)
    for key in KEYS:
        queue.add(key)
    assert set(await asyncio.gather(*waiting)) == set(KEYS)


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=30, max_size=30))
def test_back_off_grows_to_its_cap_and_starts_anew(draws: list[float]) -> None:
    drawn = iter(draws)
    backoff = Backoff(first=0.5, cap=300.0, draw=lambda: next(drawn))
    waits = [backoff.failed(KEYS[0]) for _ in range(25)]
    growing = [wait for wait in waits if wait < 300.0 * 0.8]
    assert growing == sorted(set(growing)), "each wait is longer than the one before"
    assert len(growing) <= 10
    assert all(300.0 * 0.8 <= wait <= 300.0 * 1.2 for wait in waits[12:])
    assert backoff.failed(KEYS[1]) <= 0.5 * 1.2, "another key's failures are its own"
    backoff.succeeded(KEYS[0])
    assert backoff.failed(KEYS[0]) <= 0.5 * 1.2


def test_back_off_is_capped_where_the_cause_ends_by_itself() -> None:
    backoff = Backoff(first=0.5, cap=300.0, draw=lambda: 0.5)
    assert [backoff.failed(KEYS[0], cap=4.0) for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    for _ in range(2000):
        wait = backoff.failed(KEYS[0])
    assert wait == 300.0
