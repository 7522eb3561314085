"""Our side: time optimizer steps of the in-process trainer on the trajectory file; JSON on the last line."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from world import STEP, STEPS, WARM_UP, as_sample

from toolorchestra.trainer.batch import StepConfig
from toolorchestra.trainer.trainer import Trainer, TrainerConfig


def main(folder: Path, threads: int, token_budget: int) -> None:
    samples = [as_sample(row) for row in json.loads((folder / "trajectories.json").read_text())]
    trainer = Trainer(TrainerConfig(model_dir=str(folder / "model"), device="cpu", threads=threads))
    config = StepConfig(token_budget=token_budget, **STEP)  # type: ignore[arg-type]
    seconds, cpu_seconds, results = [], [], []
    for _ in range(WARM_UP + STEPS):
        start, cpu = time.perf_counter(), time.process_time()
        results.append(trainer.step(samples, config))
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu)
    first = results[0]
    report = {
        "loss": first.loss,
        "grad_norm": first.grad_norm,
        "seconds": seconds[WARM_UP:],
        "cpu_seconds": cpu_seconds[WARM_UP:],
        "token_budget": token_budget,
        "tokens": first.tokens,
        "phases": results[-1].seconds,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
