"""Streams whose training is gone are removed, and nobody else's: over generated worlds, and on a real NATS server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolorchestra.bus.streams import StreamSettings, make_streams, remove_streams
from toolorchestra.kube.errors import Unavailable
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.messaging.servers import MessagingUnreachable, NatsServers
from toolorchestra_operator.messaging.streams import NatsStreams
from toolorchestra_operator.trainings.names import TrainingNames
from toolorchestra_operator.trainings.stream_marks import marks_of
from toolorchestra_operator.trainings.sweep import StreamSweep, suspects

HERE, ELSEWHERE = "0123456789abcdef", "fedcba9876543210"
URL = "nats://there:4222"


def a_training(names: TrainingNames, *, url: str | None = None) -> Manifest:
    metadata = {"name": names.name, "namespace": names.namespace, "uid": names.uid}
    messaging = {} if url is None else {"messaging": {"url": url}}
    return {"kind": "OrchestratorTraining", "metadata": metadata, "spec": messaging}


def marked(names: TrainingNames, *, cluster: str = HERE) -> tuple[str, Mapping[str, str]]:
    return f"TO_{names.short_uid}_TASKS", dict(marks_of(names, cluster=cluster))


# ── over generated worlds ──────────────────────────────────────────────────────────────────────────────────────────

some_names = st.builds(
    TrainingNames,
    name=st.sampled_from(["tiny", "demo"]),
    namespace=st.sampled_from(["team", "other", "third"]),
    # Few, so that short UIDs meet.
    uid=st.builds(
        lambda a, b: f"{a * 8}-0000-4000-8000-00000000000{b}", st.sampled_from("abcde"), st.sampled_from("12")
    ),
)


@given(
    living=st.frozensets(some_names, max_size=4),
    made=st.lists(st.tuples(some_names, st.sampled_from([HERE, ELSEWHERE, ""])), max_size=8),
    namespaces=st.sampled_from([(), ("team",), ("team", "other")]),
    others=st.dictionaries(
        st.sampled_from(["TO_aaaaaaaa_TASKS", "TO_bbbbbbbb_RESULTS", "KV_TO_cccccccc_STATE", "orders", "TO_x_TASKS"]),
        st.dictionaries(st.sampled_from(["toolorchestra.dev/uid", "a"]), st.just("b")),
    ),
)
def test_only_what_was_marked_here_for_a_training_that_is_gone_is_suspect(
    living: frozenset[TrainingNames],
    made: list[tuple[TrainingNames, str]],
    namespaces: tuple[str, ...],
    others: dict[str, Any],
) -> None:
    streams = dict(others)
    streams |= dict(marked(names, cluster=cluster) for names, cluster in made)
    found = suspects(streams, living=living, cluster=HERE, namespaces=namespaces)
    there = {names.short_uid for names in living}
    for owner in found:
        assert (owner.names, HERE) in made
        assert owner.names not in living
        assert owner.names.short_uid not in there
        assert not namespaces or owner.names.namespace in namespaces
    # And each that could be is.
    last = {names.short_uid: (names, cluster) for names, cluster in made}
    wanted = {
        names
        for short, (names, cluster) in last.items()
        if cluster == HERE and short not in there and (not namespaces or names.namespace in namespaces)
    }
    assert {owner.names for owner in found} == wanted


def test_an_operator_that_cannot_tell_its_cluster_suspects_nobody() -> None:
    names = TrainingNames("tiny", "team", "a" * 8)
    assert not suspects(dict([marked(names, cluster="")]), living=frozenset(), cluster="", namespaces=())


# ── who is asked ───────────────────────────────────────────────────────────────────────────────────────────────────


class Recorded:
    """Streams of which is noted what is done to them."""

    def __init__(self, *names: TrainingNames, silent: str = "") -> None:
        self.there, self.silent = dict(map(marked, names)), silent
        self.asked: list[str] = []
        self.removed: list[str] = []

    async def metadata(self, *, url: str) -> Mapping[str, Mapping[str, str]]:
        self.asked.append(url)
        if url == self.silent:
            raise MessagingUnreachable("nobody answers")
        return self.there

    async def remove(self, *, url: str, uid: str) -> None:
        self.removed.append(uid)


def sweep(streams: Any, *live: Manifest, error: Exception | None = None, **more: Any) -> StreamSweep:
    """A sweep of a cluster in which these trainings are."""

    async def find(ref: Ref) -> Manifest | None:
        if error is not None:
            raise error
        there = {(one["metadata"]["namespace"], one["metadata"]["name"]): one for one in live}
        return there.get((ref.namespace, ref.name))

    return StreamSweep(**{"find": find, "streams": streams, "cluster": HERE, "nats_url": URL, **more})


async def test_the_api_server_has_the_last_word() -> None:
    """One that was made after the list is there, and one that cannot be asked for is not known to be gone."""
    names = TrainingNames("tiny", "team", "aaaaaaaa-1")
    for of, live, error, removed in (
        (names, [], None, ["aaaaaaaa"]),
        (names, [a_training(names)], None, []),
        (names, [a_training(TrainingNames("tiny", "team", "bbbbbbbb-2"))], None, ["aaaaaaaa"]),
        (names, [], Unavailable("away", verb="get", resource="it"), []),
    ):
        streams = Recorded(of)
        await sweep(streams, *live, error=error)([])
        assert streams.removed == removed


async def test_every_server_that_is_known_is_swept_whatever_another_one_says() -> None:
    gone, here = TrainingNames("gone", "team", "aaaaaaaa-1"), TrainingNames("here", "team", "bbbbbbbb-2")
    streams = Recorded(gone, here, silent="nats://a:4222")
    parents = [a_training(here, url="nats://a:4222"), {"kind": "ExpertPool", "metadata": {}, "spec": {}}]
    await sweep(streams, a_training(here))(parents)
    assert streams.asked == ["nats://a:4222", URL]
    assert streams.removed == ["aaaaaaaa"]


# ── on a real server ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(directory=tmp_path / "nats", sync_always=False) as running:
        yield running


@pytest.fixture
async def streams() -> AsyncIterator[NatsStreams]:
    servers = NatsServers()
    yield NatsStreams(servers=servers, patient=True)
    await servers.close()


async def all_streams(url: str) -> dict[str, Sequence[str]]:
    """Their names, with their consumers'."""
    client = await nats.connect(url)
    try:
        js = client.jetstream()
        return {
            info.config.name or "": [one.name for one in await js.consumers_info(info.config.name or "")]
            for info in await js.streams_info()
        }
    finally:
        await client.close()


async def test_on_a_real_server_the_orphan_goes_with_all_that_it_has_and_nothing_else(
    server: NatsServer, streams: NatsStreams
) -> None:
    living = TrainingNames("tiny", "team", "11111111-0000-4000-8000-000000000001")
    namesake = TrainingNames("tiny", "other", "22222222-0000-4000-8000-000000000002")
    before = TrainingNames("tiny", "team", "33333333-0000-4000-8000-000000000003")
    abroad = TrainingNames("tiny", "team", "44444444-0000-4000-8000-000000000004")
    for names, cluster in ((living, HERE), (namesake, HERE), (before, HERE), (abroad, ELSEWHERE)):
        marks = marks_of(names, cluster=cluster)
        await streams.make(url=server.url, uid=names.short_uid, settings=StreamSettings(marks=marks))
    client = await nats.connect(server.url)
    await make_streams(client.jetstream(), uid="local")
    await client.jetstream().add_stream(name="orders", subjects=["orders.>"], metadata={"owner": "them"})
    await client.close()
    everything = await all_streams(server.url)
    assert everything["TO_33333333_TASKS"] == ["workers"]
    swept = sweep(streams, a_training(living), a_training(namesake), nats_url=server.url)
    for _ in range(2):
        await swept([a_training(living), a_training(namesake)])
        left = await all_streams(server.url)
        assert left == {name: held for name, held in everything.items() if "33333333" not in name}
    assert len(everything) - len(left) == 6


async def test_a_removal_that_was_cut_off_is_found_again(server: NatsServer, streams: NatsStreams) -> None:
    """TASKS goes last, and says whose the rest is."""
    names = TrainingNames("tiny", "team", "33333333-0000-4000-8000-000000000003")
    settings = StreamSettings(marks=marks_of(names, cluster=HERE))
    await streams.make(url=server.url, uid=names.short_uid, settings=settings)
    client = await nats.connect(server.url)
    js = client.jetstream()
    real, calls = js.delete_stream, 0

    async def cut_off(name: str) -> bool:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise ConnectionError
        return bool(await real(name))

    js.delete_stream = cut_off  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        await remove_streams(js, uid=names.short_uid)
    await client.close()
    assert set(await all_streams(server.url)) == {"TO_33333333_TASKS", "TO_33333333_RESULTS", "TO_33333333_DEAD"}
    await sweep(streams, nats_url=server.url)([])
    assert not await all_streams(server.url)


async def test_more_streams_than_the_server_lists_at_once(server: NatsServer, streams: NatsStreams) -> None:
    client = await nats.connect(server.url)
    js = client.jetstream()
    for number in range(300):
        await js.add_stream(
            name=f"s{number}", subjects=[f"s{number}"], metadata={"number": str(number)}, storage="memory"
        )
    await client.close()
    found = await streams.metadata(url=server.url)
    assert {name: data["number"] for name, data in found.items()} == {
        f"s{number}": str(number) for number in range(300)
    }
