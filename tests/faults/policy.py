"""The policy of the real engines: the demo's base after a warm start on the run's own tasks, so that it calls experts.
Untaught, hardly an output of it reads, and a run pauses because of that, as it should."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from faults.instances import DEMO, make_world

from faults.plan import Plan
from toolorchestra.api.load import load
from toolorchestra.controller.settings import settings_of
from toolorchestra.controller.warm_traces import warm_batches
from toolorchestra.local.plan import find_file
from toolorchestra.policy.renderer import Renderer
from toolorchestra.trainer.batch import StepConfig
from toolorchestra.trainer.supervised import supervised_step
from toolorchestra.trainer.trainer import Trainer, TrainerConfig

BASE = DEMO / "base"
STEPS, BATCH, RATE = 60, 32, 5e-4
"""As in examples/demo/training.yaml."""


def taught(folder: Path, plan: Plan) -> Path:
    """Teach the base the form of a call; the Hugging Face folder of it, under `folder`."""
    config = make_world(folder, plan, experts_url="http://127.0.0.1:1", nats_url="", model=BASE)
    bundle = load(config.resources)
    instances = settings_of(bundle.trainings[0], bundle.pools, find=partial(find_file, volumes={})).instances
    trainer = Trainer(TrainerConfig(model_dir=str(BASE), device="cpu", threads=1))
    for batch in warm_batches(instances, Renderer.load(BASE), steps=STEPS, batch_size=BATCH, seed=plan.seed):
        supervised_step(trainer, batch, StepConfig(lr=RATE))
    trainer.export(folder / "model")
    return folder / "model"
