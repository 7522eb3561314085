"""One episode: observe → generate → parse → execute → meter → end? An asyncio state machine.

Invariants: every order has exactly one `Ending`. Only `ANSWERED` is graded. A failure of infrastructure is never
scored. Every turn and every call is in the trace with its meter, also if the episode fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from opentelemetry import trace as otel

from toolorchestra.experts.chat import Experts
from toolorchestra.policy.engine import Engine, EngineLost, Generation, GenerationParameters, NoEngine
from toolorchestra.policy.parser import Parsed, Rejection, parse
from toolorchestra.policy.renderer import Renderer
from toolorchestra.rollout import baselines
from toolorchestra.rollout.budget import EpisodeBudget
from toolorchestra.rollout.calls import CallsResult, ExpertRequest, execute
from toolorchestra.rollout.components import components_of
from toolorchestra.rollout.end import End
from toolorchestra.rollout.modes.mode import Mode
from toolorchestra.rollout.modes.of_kind import mode_of
from toolorchestra.rollout.order import Order
from toolorchestra.rollout.trace import Call, Ending, Meter, Sample, Trace, Turn
from toolorchestra.tasks.grader import Grade, GraderFailure
from toolorchestra.tasks.task import Task
from toolorchestra.telemetry import names
from toolorchestra.telemetry.propagation import trace_id
from toolorchestra.telemetry.spans import annotate, chat_span, end_chat, grade_span

Grading = Callable[[Task, str | None], Awaitable[Grade]]
"""Grades an answer off the event loop. Raises GraderFailure."""


@dataclass(frozen=True)
class Host:
    """The services that an episode uses. `engine` and `renderer` may be None if only baselines run."""

    experts: Experts
    grade: Grading
    engine: Engine | None = None
    renderer: Renderer | None = None
    worker: str = ""


class Episode:
    """One dispatch of an episode. Call `run` once."""

    def __init__(self, order: Order, *, host: Host) -> None:
        self._order = order
        self._host = host
        self._budget = EpisodeBudget(limits=order.limits, allowance_usd=order.allowance_usd)
        self._turns: list[Turn] = []
        self._mode: Mode | None = None
        self._phase = "the start"
        self._generating = False
        self._task: asyncio.Task[object] | None = None
        self._cancelled = ""

    def cancel(self, reason: str) -> None:
        """End the episode as CANCELLED at its next await."""
        self._cancelled = reason
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> Trace:
        """Play to the end and grade. Raises only if it is cancelled from outside (not through `cancel`)."""
        started_at, begin = time.time(), time.monotonic()
        self._task = asyncio.current_task()
        end = await self._bounded()
        graded, end = await self._score(end)
        trace = self._trace(end, graded=graded, started_at=started_at, wall_seconds=time.monotonic() - begin)
        annotate(
            otel.get_current_span(),
            {
                names.TASK: trace.task_id,
                names.ENDING: trace.ending.value,
                names.NOMINAL_USD: trace.components.cost_usd,
                names.ACTUAL_USD: trace.components.actual_usd,
                names.SERVICE_SECONDS: trace.components.service_seconds,
            },
        )
        return trace

    async def _bounded(self) -> End:
        """Play within the wall-clock limit.

        The policy is charged for too much service time only. If the wall-clock limit comes first (an engine that hangs,
        a slow machine), infrastructure is the cause, and the episode is never scored.
        """
        limit = self._order.limits.timeout_seconds
        try:
            if self._cancelled:
                raise asyncio.CancelledError
            if (end := await self._engine_there()) is not None:
                return end
            async with asyncio.timeout(limit):
                return await self._play()
        except TimeoutError:
            late = self._budget.out_of_time()
            if late is not None:
                return late
            ending = Ending.ENGINE_LOST if self._generating else Ending.TOOL_FAILURE
            return End(ending, f"not finished after {limit:g} s of wall-clock time; it was waiting in {self._phase}")
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
            return self._was_cancelled()

    async def _engine_there(self) -> End | None:
        """Wait for an engine before the time limit starts: a training without engines is not the episode's problem."""
        engine = self._host.engine
        if engine is None or self._order.system != "policy":
            return None
        try:
            await engine.routable(version=self._order.version)
        except EngineLost as error:
            return self._engine_lost(error)
        return None

    def _engine_lost(self, error: EngineLost) -> End:
        """Return the end after a lost engine.

        An episode without a turn has neither tokens nor costs. If the training reports that it has no engine, such an
        episode counts as never played."""
        unplayed = isinstance(error, NoEngine) and not self._turns
        return End(Ending.NO_ENGINE if unplayed else Ending.ENGINE_LOST, str(error))

    def _was_cancelled(self) -> End:
        """Return the end for `cancel`, and clear the cancellation of the task."""
        if self._task is not None:
            self._task.uncancel()
        return End(Ending.CANCELLED, self._cancelled)

    async def _play(self) -> End:
        if self._order.system != "policy":
            return await baselines.play(self._order, ask=self._ask)
        renderer, engine = self._host.renderer, self._host.engine
        if renderer is None or engine is None:
            return End(Ending.ENGINE_LOST, "this worker has no engine: start it with a model folder and engines")
        order = self._order
        mode = mode_of(order.task, order.view, renderer=renderer, limits=order.limits)
        self._mode = mode
        for number in range(order.limits.max_turns):
            end = await self._turn(number, mode=mode, renderer=renderer, engine=engine)
            if end is not None:
                return end
        return self._out_of_turns()

    def _out_of_turns(self) -> End:
        """Return the end after the last turn. An episode without any readable output has an ending of its own."""
        limit = self._order.limits.max_turns
        if all(turn.rejection for turn in self._turns):
            return End(
                Ending.UNPARSEABLE, f"none of {limit} outputs could be parsed; last: {self._turns[-1].rejection}"
            )
        return End(Ending.TURN_LIMIT, f"no answer in {limit} turns")

    async def _turn(self, number: int, *, mode: Mode, renderer: Renderer, engine: Engine) -> End | None:
        if (end := self._budget.out_of_time()) is not None:
            return end
        prompt = mode.prompt()
        if prompt is None:
            return End(Ending.CONTEXT_LIMIT, f"the prompt passed {self._order.limits.max_prompt_tokens} tokens")
        try:
            generation = await self._generate(prompt, number=number, engine=engine, renderer=renderer)
        except EngineLost as error:
            return self._engine_lost(error)
        text = renderer.decode(generation.token_ids)
        parsed = self._parse(text, generation=generation, mode=mode, thinking_open=renderer.thinking_open)
        mode.said(generation, text=text, parsed=parsed)
        turn = Turn(text=text, rejection=parsed.rejection, meter=self._meter(prompt, generation))
        self._turns.append(turn)
        self._budget.service_seconds += generation.service_seconds
        if parsed.rejection is not None:
            return self._refused(parsed, mode=mode)
        if not parsed.calls:
            return mode.conclude(parsed.message)
        return await self._execute(parsed, turn=turn, mode=mode)

    async def _generate(self, prompt: Sequence[int], *, number: int, engine: Engine, renderer: Renderer) -> Generation:
        sampling = self._order.sampling
        parameters = GenerationParameters(
            max_tokens=self._order.limits.max_response_tokens,
            stop_token_ids=renderer.stop_token_ids,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
        )
        self._phase, self._generating = f"generation of turn {number + 1}", True
        with chat_span(model="policy") as span:
            generation = await engine.generate(prompt, parameters=parameters, version=self._order.version)
            end_chat(
                span,
                input_tokens=len(prompt),
                output_tokens=len(generation.token_ids),
                cached_tokens=generation.tokens_cached,
                finish_reason="length" if generation.truncated else "stop",
                service_seconds=generation.service_seconds,
            )
        self._generating = False
        return generation

    def _parse(self, text: str, *, generation: Generation, mode: Mode, thinking_open: bool) -> Parsed:
        parsed = parse(text, tools=mode.tools, rules=mode.rules, thinking_open=thinking_open)
        if generation.truncated and not parsed.calls:
            limit = self._order.limits.max_response_tokens
            return Parsed(
                thinking=parsed.thinking,
                message=parsed.message,
                rejection=Rejection.TRUNCATED,
                detail=f"the output was cut at {limit} tokens",
            )
        return parsed

    def _refused(self, parsed: Parsed, *, mode: Mode) -> End | None:
        errors = sum(turn.rejection is not None for turn in self._turns)
        if errors >= self._order.limits.max_errors:
            return End(Ending.ERROR_LIMIT, f"{errors} outputs could not be parsed; last: {parsed.rejection}")
        mode.refuse(parsed)
        return None

    def _meter(self, prompt: Sequence[int], generation: Generation) -> Meter:
        """Return the policy's meter. It runs on the training's own engines: a nominal price, but no actual dollars."""
        tokens_in, tokens_out = len(prompt), len(generation.token_ids)
        return Meter(
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            tokens_cached=generation.tokens_cached,
            nominal_usd=self._order.view.policy_price.of(tokens_in=tokens_in, tokens_out=tokens_out),
            service_seconds=generation.service_seconds,
            wall_seconds=generation.wall_seconds,
        )

    async def _execute(self, parsed: Parsed, *, turn: Turn, mode: Mode) -> End | None:
        if (end := self._budget.out_of_time()) is not None:
            return end
        requests: list[ExpertRequest] = []
        for call in parsed.calls:
            expert = self._order.view.expert(call.arguments["model"])
            if expert is None:
                raise AssertionError("the parser accepts only aliases in the tools' enum")
            requests.append(ExpertRequest(call.name, expert, mode.question(call), call.arguments))
        result = await self._run_calls(requests, turn=turn)
        return result.end or mode.observe(result.calls)

    async def _ask(self, requests: Sequence[ExpertRequest]) -> CallsResult:
        """Run one turn of a baseline: calls without a generation."""
        self._turns.append(Turn(text=""))
        return await self._run_calls(requests, turn=self._turns[-1])

    async def _run_calls(self, requests: Sequence[ExpertRequest], *, turn: Turn) -> CallsResult:
        """Make the calls of the last turn, `turn`. The turn keeps its calls also if they are cancelled."""
        self._phase = f"calls to {', '.join(request.expert.pool for request in requests)}"

        def keep(calls: tuple[Call, ...]) -> None:
            self._turns[-1] = turn.model_copy(update={"calls": calls})

        task = self._order.task
        result = await execute(requests, experts=self._host.experts, budget=self._budget, task=task, cancelled=keep)
        keep(result.calls)
        return result

    async def _score(self, end: End) -> tuple[float | None, End]:
        if end.ending is not Ending.ANSWERED:
            return None, end
        try:
            with grade_span(grader=self._order.task.grader.type) as span:
                grade = await self._host.grade(self._order.task, end.answer)
                annotate(span, {names.SCORE: grade.score})
        except GraderFailure as error:
            return None, End(Ending.GRADER_FAILURE, str(error), answer=end.answer)
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
            return None, self._was_cancelled()
        return grade.outcome, replace(end, detail=grade.detail) if grade.detail else end

    def _trace(self, end: End, *, graded: float | None, started_at: float, wall_seconds: float) -> Trace:
        order = self._order
        samples: tuple[Sample, ...] = self._mode.samples if self._mode is not None else ()
        return Trace(
            issue=order.issue,
            task_id=order.task.id,
            source=order.task.source,
            topic=order.task.topic,
            purpose=order.purpose,
            system=order.system,
            instruction=order.task.instruction,
            view=order.view,
            sampling=order.sampling,
            samples=samples,
            turns=tuple(self._turns),
            ending=end.ending,
            detail=end.detail,
            expert=end.expert,
            answer=end.answer,
            components=components_of(self._turns, ending=end.ending, graded=graded, wall_seconds=wall_seconds),
            forks=self._mode.forks if self._mode is not None else 0,
            worker=self._host.worker,
            trace_id=trace_id(),
            started_at=started_at,
        )
