"""The extra headers of a simulated expert, in addition to the chat protocol. A real pool never receives them."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass

from toolorchestra.tasks.grader import reference_answer
from toolorchestra.tasks.task import Task

TASK_HEADER = "x-simulated-task"
"""Request header: base64 of a JSON `SimulatedTask`. So the simulator does not need the task source."""
SECONDS_HEADER = "x-simulated-service-seconds"
"""Reply header: simulated service time in seconds. A reply with this header is simulated."""


@dataclass(frozen=True)
class SimulatedTask:
    """The facts that decide a simulated answer. `answer` None: no right answer is known, so every expert is wrong."""

    id: str
    topic: str
    answer: str | None

    @classmethod
    def of(cls, task: Task) -> SimulatedTask:
        return cls(id=task.id, topic=task.topic, answer=reference_answer(task))

    def header(self) -> str:
        return base64.b64encode(json.dumps(asdict(self)).encode()).decode("ascii")

    @classmethod
    def parse(cls, header: str) -> SimulatedTask:
        """Read the output of `header()`. ValueError for anything else."""
        try:
            fields = json.loads(base64.b64decode(header, validate=True))
            task = cls(**fields)
        except (ValueError, TypeError) as error:  # not base64, not UTF-8, not JSON; not these fields
            raise ValueError(f"not a simulated task: {error}") from error
        if not isinstance(task.id, str) or not isinstance(task.topic, str) or not isinstance(task.answer, str | None):
            raise ValueError("not a simulated task: id and topic are strings, answer a string or null")
        return task
