"""Which engines and experts a worker uses: the training's routing, and the pool file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.episode_world import OAK
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.bus.protocol import BusUnavailable, Change
from toolorchestra.policy.pool import EnginePool, EngineRecord
from toolorchestra.rollout.pools import PoolEntry, PoolFile, PoolFileError, read_pools
from toolorchestra.rollout.routing import ENGINES_KEY, apply_routing, follow_routing


class Recorded:
    """Stands where a vLLM client would."""

    def __init__(self, url: str) -> None:
        self.url = url


def pool_of() -> EnginePool:
    return EnginePool(connect=Recorded)  # type: ignore[arg-type]


def routable(pool: EnginePool) -> dict[str, tuple[str | None, bool]]:
    return {url: (slot.record.version, slot.record.routable) for url, slot in pool._slots.items()}


async def test_the_pool_follows_the_training(caplog: pytest.LogCaptureFixture) -> None:
    bus, pool = MemoryBus(), pool_of()
    following = asyncio.create_task(follow_routing(bus, pool=pool))
    state = {"engines": [{"url": "http://a", "version": "0-1", "routable": True}], "paused": True}
    await bus.put(ENGINES_KEY, json.dumps(state).encode())
    async with asyncio.timeout(2):
        while not pool.paused:
            await pool._changed.wait()
    assert routable(pool) == {"http://a": ("0-1", True)}
    await bus.put(ENGINES_KEY, b"[broken")
    await bus.put(ENGINES_KEY, json.dumps({**state, "paused": False}).encode())
    async with asyncio.timeout(2):
        while pool.paused:
            await pool._changed.wait()
    assert routable(pool) == {"http://a": ("0-1", True)}
    assert "keeping the last one" in caplog.text
    await bus.close()
    await following


async def test_the_pool_is_told_again_after_a_broker_that_was_away_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would wait for ever for engines that are there."""

    class Away(MemoryBus):
        """Its first watch gives up, as behind a broker that does not answer in time."""

        watched = 0

        def watch(self, prefix: str = "") -> AsyncIterator[Change]:
            self.watched += 1
            return self._gives_up() if self.watched == 1 else super().watch(prefix)

        async def _gives_up(self) -> AsyncIterator[Change]:
            yield Change(key=ENGINES_KEY, value=json.dumps({"engines": [], "paused": True}).encode())
            raise BusUnavailable("did not answer in time")

    monkeypatch.setattr("toolorchestra.rollout.routing.RETRY_SECONDS", 0.01)
    bus, pool = Away(), pool_of()
    following = asyncio.create_task(follow_routing(bus, pool=pool))
    await bus.put(ENGINES_KEY, json.dumps({"engines": [{"url": "http://a"}], "paused": False}).encode())
    async with asyncio.timeout(2):
        while not routable(pool):
            await pool._changed.wait()
    assert not pool.paused
    await bus.close()
    await following


def test_no_key_is_no_engine() -> None:
    pool = pool_of()
    pool.update([EngineRecord("http://a")])
    apply_routing(None, pool=pool)
    assert routable(pool) == {}


def test_a_pool_file_names_keys_never_holds_them(tmp_path: Path) -> None:
    path = tmp_path / "pools.json"
    entry = PoolEntry(pool="p", url="http://x/v1", model="m", price=OAK.price, api_key_env="P_KEY")
    PoolFile(pools=(entry,)).write(path)
    (endpoint,) = read_pools(path, environment={"P_KEY": "secret"})
    assert (endpoint.pool, endpoint.api_key, endpoint.price) == ("p", "secret", OAK.price)
    assert "secret" not in path.read_text()
    assert PoolEntry.of(endpoint, api_key_env="P_KEY") == entry
    with pytest.raises(PoolFileError, match="set P_KEY"):
        read_pools(path, environment={})
    with pytest.raises(PoolFileError, match="set P_KEY"):
        read_pools(path, environment={"P_KEY": "\n"})
    (endpoint,) = read_pools(path, environment={"P_KEY": "secret\n"})  # as a Secret made of a file has it
    assert endpoint.api_key == "secret"
    with pytest.raises(PoolFileError, match="P_KEY has a line break"):
        read_pools(path, environment={"P_KEY": "two\nlines"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pools: [{pool: p, url: u}, {pool: q, url: u, model: m, pirce: 1}]", r"pools\.0\.model(.|\n)*pools\.1\.pirce"),
        ("pools: [{pool: p, url: u, model: m}, {pool: p, url: u, model: m}]", "named twice: p"),
        ("{", "not YAML"),
    ],
)
def test_all_mistakes_of_a_pool_file_at_once(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.write_text(text)
    with pytest.raises(PoolFileError, match=said):
        read_pools(path, environment={})
    with pytest.raises(PoolFileError, match="No such file"):
        read_pools(tmp_path / "absent", environment={})
