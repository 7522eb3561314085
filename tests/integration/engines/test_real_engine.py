"""Trainer and a real vLLM together, in float32: equal log probabilities, equal greedy tokens, updates under load."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from support.tiny_model import tiny_model
from toolorchestra.engines.arguments import EngineConfig
from toolorchestra.engines.control import UpdateFailed
from toolorchestra.engines.server import EngineDied, EngineNotReady, EngineServer
from toolorchestra.engines.startup import Patience
from toolorchestra.trainer.batch import StepConfig, TrainSample
from toolorchestra.trainer.packing import pack, token_weights
from toolorchestra.trainer.trainer import Trainer, TrainerConfig
from toolorchestra.weights.snapshot import Snapshot, read_header
from toolorchestra.weights.writer import write_snapshot

pytestmark = pytest.mark.real

START_SECONDS = 300
Bed = tuple[EngineServer, Trainer]


def trainer_of(folder: Path) -> Trainer:
    return Trainer(TrainerConfig(model_dir=str(folder), device="cpu", threads=1))


def launched(folder: Path, *, log: Path, stack: ExitStack) -> EngineServer:
    server = EngineServer(EngineConfig(model_dir=str(folder), max_model_len=1024), log=log)
    stack.callback(server.stop)
    server.launch()
    return server


@dataclasses.dataclass(frozen=True)
class Beds:
    """Two engines, which start side by side: most of a start is imports on one core."""

    own: Path
    """What the second was exported from: a model with tied embeddings."""
    servers: tuple[EngineServer, EngineServer]

    def bed(self, number: int) -> Bed:
        """Once it is ready."""
        server = self.servers[number]
        server.wait_ready(Patience(total=START_SECONDS))
        return server, trainer_of(Path(server.config.model_dir))


@pytest.fixture(scope="module")
def beds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beds]:
    folder = tmp_path_factory.mktemp("beds")
    own = tiny_model(folder / "tied", tied=True, spread=0.2)
    trainer_of(own).export(folder / "exported")
    models = (tiny_model(folder / "model", spread=0.2), folder / "exported")
    with ExitStack() as stack:
        first, second = (launched(model, log=folder / f"{model.name}.log", stack=stack) for model in models)
        yield Beds(own, (first, second))


@pytest.fixture(scope="module")
def bed(beds: Beds) -> Bed:
    return beds.bed(0)


def generate(server: EngineServer, prompt: Sequence[int], **sampling: Any) -> dict[str, Any]:
    sampling = {"max_tokens": 32, "temperature": 1.0, "logprobs": 0, "ignore_eos": True} | sampling
    body = json.dumps({"token_ids": list(prompt), "sampling_params": sampling}).encode()
    request = urllib.request.Request(
        f"{server.url}/inference/v1/generate", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        choice: dict[str, Any] = json.load(answer)["choices"][0]
    return choice


def prompts(seed: int, count: int, *, shortest: int = 8, longest: int = 200) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(256) for _ in range(rng.randint(shortest, longest))] for _ in range(count)]


def sampled(prompt: Sequence[int], choice: dict[str, Any], advantage: float = 1.0) -> TrainSample:
    ids = choice["token_ids"]
    logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
    mask = [False] * len(prompt) + [True] * len(ids)
    return TrainSample([*prompt, *ids], mask, [0.0] * len(prompt) + logprobs, advantage, fresh=mask)


def rollout(server: EngineServer, wanted: list[list[int]], **sampling: Any) -> list[TrainSample]:
    with ThreadPoolExecutor(32) as pool:
        # No seeds of their own, as in production: see `GenerationParameters`.
        choices = pool.map(lambda prompt: generate(server, prompt, **sampling), wanted)
        signs = [1.0, -1.0]
        return [sampled(p, c, signs[i % 2]) for i, (p, c) in enumerate(zip(wanted, choices, strict=True))]


def differences(trainer: Trainer, samples: list[TrainSample]) -> list[float]:
    """|trainer's - engine's log probability| of every sampled token."""
    own = trainer.logprobs(samples)
    return [
        abs(mine - theirs)
        for index, sample in enumerate(samples)
        for mine, theirs, trained in zip(own[index], sample.logprobs, sample.loss_mask, strict=True)
        if trained
    ]


def assert_agree(trainer: Trainer, samples: list[TrainSample], *, tokens: int = 1) -> None:
    found = differences(trainer, samples)
    assert len(found) >= tokens
    assert max(found) <= 1e-3
    assert sum(found) / len(found) <= 1e-4


def trainer_greedy(trainer: Trainer, samples: list[TrainSample]) -> list[list[int]]:
    """The trainer's most likely token at every sampled position: greedy decoding by induction over the positions."""
    result = []
    for sample in samples:
        with torch.no_grad():
            batch = pack([sample], token_weights([sample], "token_mean"))
            hidden = trainer.policy.hidden(batch).index_select(0, batch.selected)
            best = (hidden @ trainer.policy.head_weight.t()).argmax(-1)
        result.append(best.tolist())
    return result


def update(bed: Bed, folder: Path, version: str, samples: list[TrainSample], *, lr: float = 3e-3) -> Snapshot:
    """A real optimizer step on what the engine sampled with these weights, then the new ones on the engine."""
    server, trainer = bed
    mismatch = trainer.step(samples, StepConfig(lr=lr)).mismatch
    assert mismatch is not None
    assert mismatch.tokens == sum(sample.trained_tokens for sample in samples)
    assert mismatch.k3 < 1e-8
    assert mismatch.rms < 1e-4
    snapshot = trainer.snapshot(folder / version, version=version)
    assert snapshot is not None
    server.control.update(snapshot)
    assert server.control.version() == version
    return snapshot


def test_trainer_and_engine_agree_before_and_after_an_update(bed: Bed, tmp_path: Path) -> None:
    server, trainer = bed
    wanted = prompts(1, 100)
    before = rollout(server, wanted, max_tokens=110)
    assert_agree(trainer, before, tokens=10_000)
    update(bed, tmp_path, "0-1", before)
    # The same prompts again: a prefix cache of the old weights would show here.
    after = rollout(server, wanted, max_tokens=110)
    assert_agree(trainer, after, tokens=10_000)
    assert max(differences(trainer, before)) > 0.1, "the update changed nothing, so the test says nothing"
    greedy = rollout(server, prompts(2, 100), temperature=0.0, max_tokens=32)
    said = [[t for t, m in zip(s.token_ids, s.loss_mask, strict=True) if m] for s in greedy]
    assert said == trainer_greedy(trainer, greedy)
    assert sum(map(len, said)) == 3200


def test_a_request_in_flight_goes_on_and_its_span_splits_at_the_switch(bed: Bed, tmp_path: Path) -> None:
    server, trainer = bed
    [prompt] = prompts(3, 1, shortest=40, longest=40)
    old = Trainer(trainer.config)
    old.policy.load_state_dict(trainer.policy.state_dict())
    fuel = rollout(server, prompts(4, 8))
    trainer.step(fuel, StepConfig(lr=3e-3))
    snapshot = trainer.snapshot(tmp_path / "0-2", version="0-2")
    assert snapshot is not None
    with ThreadPoolExecutor(1) as pool:
        running: Future[dict[str, Any]] = pool.submit(generate, server, prompt, max_tokens=900)
        while 'vllm:num_requests_running{engine="0",model_name="policy"} 1.0' not in metrics(server):
            assert not running.done()
        server.control.update(snapshot)
        choice = running.result()
    first, second = choice["weight_versions"]
    assert (first["start"], first["end"], second["version"]) == (0, second["start"], "0-2")
    assert second["end"] == 900
    cut = len(prompt) + first["end"]
    sample = sampled(prompt, choice)
    masks = [[m and (i < cut) is early for i, m in enumerate(sample.loss_mask)] for early in (True, False)]
    assert_agree(old, [dataclasses.replace(sample, loss_mask=masks[0])])
    assert_agree(trainer, [dataclasses.replace(sample, loss_mask=masks[1])])


def metrics(server: EngineServer) -> str:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def test_a_bad_snapshot_leaves_the_old_weights_and_a_good_one_recovers(bed: Bed, tmp_path: Path) -> None:
    server, trainer = bed
    good = trainer.snapshot(tmp_path / "good", version="0-3")
    assert good is not None
    server.control.update(good)
    tensors = {name: tensor + 1 for name, tensor in trainer.full_tensors() if name != "model.norm.weight"}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    partial = write_snapshot(tmp_path / "partial", tensors.items(), version="0-4", keys=shapes, dtype=torch.float32)
    other = dataclasses.replace(good, digest="0" * 64, mark="that nobody here has checked")
    server.control.pause()
    for bad in (partial, other, dataclasses.replace(good, path=str(tmp_path))):
        with pytest.raises(UpdateFailed, match="stays paused"):
            server.control._load(bad)  # past the client's own check: the engine's must hold too
    assert server.control.is_paused()
    assert server.control.version() == "0-3"
    server.control.resume()
    assert_agree(trainer, rollout(server, prompts(5, 8)))
    server.control.pause()
    assert server.control.recover(good)
    assert_agree(trainer, rollout(server, prompts(6, 8)))
    assert "model.norm.weight" in read_header(good.file)


def test_workers_cannot_reach_the_control_routes(bed: Bed) -> None:
    server, _ = bed
    for route in ("/pause", "/update_weights", "/collective_rpc", "/sleep"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(f"{server.url}{route}", data=b"{}"), timeout=10)
    assert not server.control.is_paused()


def test_an_engine_that_stands_still_and_one_that_dies_are_seen(bed: Bed) -> None:
    """Last: it ends the engine."""
    server, _ = bed
    assert server.pid is not None
    server.check_answers()
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(EngineNotReady):
        server.check_answers(timeout=1)
    os.kill(server.pid, signal.SIGCONT)
    server.check_answers(timeout=30)
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(EngineDied, match="status -9"):
        server.wait_ready(Patience(total=10))


def test_an_exported_folder_serves_and_tied_embeddings_are_updated_whole(beds: Beds, tmp_path: Path) -> None:
    """The engine starts from what a trainer exported, and the next export is what the engine got."""
    server, trainer = bed = beds.bed(1)
    wanted = prompts(7, 16)
    before = rollout(server, wanted)
    assert_agree(trainer_of(beds.own), before)
    update(bed, tmp_path, "0-1", before)
    after = rollout(server, wanted)
    assert_agree(trainer, after)
    assert max(differences(trainer, before)) > 0.1
    trainer.export(tmp_path / "second")
    assert_agree(trainer_of(tmp_path / "second"), after)
