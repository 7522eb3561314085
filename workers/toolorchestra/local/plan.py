"""Plans a training on this machine: local replacements take the place of all cluster objects.

It reads files and starts nothing. All problems are reported at once, and all replacements are listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from toolorchestra.api.bundle import Bundle
from toolorchestra.api.core_yaml import dump_all
from toolorchestra.api.load import load
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.controller.instances import Instances
from toolorchestra.controller.rehearsal import RehearsalError, rehearse
from toolorchestra.controller.settings import Settings, SettingsError, beyond_budget, settings_of
from toolorchestra.local.compute import Compute
from toolorchestra.local.errors import MachineError
from toolorchestra.policy.model_file import ModelFileError
from toolorchestra.policy.renderer import Renderer, RendererError
from toolorchestra.policy.template import TemplateError
from toolorchestra.tasks.file_uri import all_absolute, path_of
from toolorchestra.trainer.model_settings import NAME, language_settings, read_settings, vocabulary_of, why_refused
from toolorchestra.weights.snapshot import why_unusable

SIMULATOR_HOST = "simulator"
"""Host in an endpoint's URL that stands for the local simulator (`--simulator skills.yaml`)."""

FEW_TASKS = 20
"""With fewer held-out tasks an evaluation tells little: one task is more than 5 % of them."""


class LocalError(MachineError):
    """The training cannot run on this machine; the text has one line per problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True)
class LocalPlan:
    """A training that can run on this machine. `stand_ins`: the local replacements, printed at the start."""

    training: OrchestratorTraining
    pools: tuple[ExpertPool, ...]
    model_dir: Path
    volumes: Mapping[str, Path]
    skills: Path | None
    time_scale: float
    stand_ins: tuple[str, ...]
    model_notes: tuple[str, ...] = ()
    """Notes about the model's chat template (controller/rehearsal.py)."""
    summary: tuple[str, ...] = ()
    """Summary of the files for the user to check: tasks, experts, money, devices."""
    compute: Compute = field(default_factory=Compute)
    """Devices of trainers and engines."""

    @property
    def uses_simulator(self) -> bool:
        return any(_is_simulator(pool) for pool in self.pools)

    def find(self, uri: str) -> Path:
        return find_file(uri, self.volumes)


def find_file(uri: str, volumes: Mapping[str, Path]) -> Path:
    """Return the local path of a URI; LocalError says what to do where there is none."""
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return path_of(uri)
    claim, _, path = rest.partition("/")
    if scheme == "pvc":
        if claim not in volumes:
            raise LocalError([f"{uri}: give the local folder of claim {claim}: --volume {claim}=DIR"])
        return volumes[claim] / path
    raise LocalError([f"{uri}: {scheme}:// cannot be read on one machine; download it and use file:// or pvc://"])


def plan_of(
    bundle: Bundle,
    *,
    name: str | None,
    volumes: Mapping[str, Path],
    skills: Path | None,
    time_scale: float,
    environment: Mapping[str, str],
    folder: Path | None = None,
) -> LocalPlan:
    """Check that the training can run here, and return the plan; LocalError lists every problem.

    Relative `file://` URIs are relative to `folder`, or else to the working directory; in the plan they are absolute.
    """
    training = with_absolute_files(bundle.training(name), folder=folder or Path.cwd())
    pools = bundle.experts(training.spec.tools)
    simulated = simulated_models(skills) if skills is not None else None
    problems: list[str] = []
    model_dir = Path()
    try:
        model_dir = find_file(training.spec.model.uri, volumes).resolve()
    except LocalError as error:
        problems += error.problems
    else:
        problems += _model_problems(training, model_dir)
    for pool in pools:
        problems += _pool_problems(pool, simulated=simulated, environment=environment)
    if training.spec.init_from is not None:
        problems.append("spec.initFrom: not available on one machine yet; set spec.model.uri to the exported folder")
    try:
        # Refuses malformed tasks, tools and suites before anything starts.
        settings = settings_of(training, pools, find=partial(find_file, volumes=volumes))
    except (SettingsError, LocalError) as error:
        raise LocalError([*problems, *str(error).splitlines()]) from error
    if problems:
        raise LocalError(problems)
    return LocalPlan(
        training=training,
        pools=pools,
        model_dir=model_dir,
        volumes=volumes,
        skills=skills,
        time_scale=time_scale,
        stand_ins=tuple(_stand_ins(training)),
        model_notes=_rehearsed(settings.instances, model_dir),
        summary=tuple(_summary(training, pools, settings, uses_simulator=skills is not None)),
    )


def with_absolute_files(training: OrchestratorTraining, *, folder: Path) -> OrchestratorTraining:
    """Return the training with absolute `file://` URIs, so that the run can be resumed from any folder."""
    return OrchestratorTraining.model_validate(all_absolute(dump(training), folder=folder))


def _summary(
    training: OrchestratorTraining, pools: Sequence[ExpertPool], settings: Settings, *, uses_simulator: bool
) -> Iterator[str]:
    """Yield what the files contain, and warnings about what is probably a mistake."""
    suite, algorithm = settings.instances.suite, training.spec.algorithm
    yield f"tasks: {suite.train_size} to train on, {suite.held_out_size} held out"
    if not settings.suites:
        yield "tasks: none is held out, so there will be no evaluation: raise tasks.heldOutFraction, or add tasks"
    for each in settings.suites:
        if each.size < FEW_TASKS:
            yield f"suite {each.name}: {each.size} tasks are too few for a reliable result: hold out more, or add tasks"
    yield f"experts: {', '.join(pool.metadata.name for pool in pools)}"
    for pool in pools:
        if uses_simulator and pool.spec.simulated and not _is_simulator(pool):
            where = pool.spec.endpoint.url if pool.spec.endpoint else "elsewhere"
            yield f"expert {pool.metadata.name}: simulated, but at {where}: --simulator is the host `simulator` only"
    yield f"money: ${settings.allowance:.4g} is reserved for each episode until its cost is known"
    for name, least in beyond_budget(training.spec, pools):
        yield f"expert {name}: never called: a call reserves at least ${least:.4g}, more than episodeBudget.maxUSD"
    wanted = algorithm.group_size * algorithm.groups_per_step
    if settings.cap is not None and settings.cap < wanted * settings.allowance:
        yield (
            f"money: limits.maxSpendUSD allows {settings.cap // settings.allowance} episodes at once, but a step has"
            f" {wanted}: the run is slower and pauses earlier. Limit an episode (rollout.episodeBudget.maxUSD, or the"
            " pools' limits), or raise the cap"
        )


def _rehearsed(instances: Instances, model_dir: Path) -> tuple[str, ...]:
    try:
        return rehearse(instances, Renderer.load(model_dir), vocabulary=vocabulary_of(read_settings(model_dir)))
    except RehearsalError as error:
        raise LocalError([f"spec.model.uri: {model_dir}: {error}"]) from error


def _model_problems(training: OrchestratorTraining, folder: Path) -> list[str]:
    """Return the model's problems that would otherwise stop workers, engines and trainers after the start."""
    rollout = training.spec.rollout
    wanted = rollout.max_prompt_tokens + rollout.max_response_tokens
    try:
        settings = read_settings(folder)
        Renderer.load(folder)
    except (ModelFileError, RendererError, TemplateError) as error:
        return [f"spec.model.uri: {error}"]
    problems = [f"spec.model.uri: {why}"] if (why := why_unusable(folder)) else []
    if why := why_refused(settings, longest=wanted):
        problems.append(f"spec.model.uri: {folder / NAME}: {why}")
    longest = getattr(language_settings(settings), "max_position_embeddings", None)
    if isinstance(longest, int) and wanted > longest:
        problems.append(
            f"spec.rollout: maxPromptTokens + maxResponseTokens is {wanted}, but the model's context is {longest}"
            f" tokens (max_position_embeddings in {folder / NAME}): lower them"
        )
    return problems


def _is_simulator(pool: ExpertPool) -> bool:
    return pool.spec.endpoint is not None and urlsplit(pool.spec.endpoint.url).hostname == SIMULATOR_HOST


def simulated_models(skills: Path) -> frozenset[str]:
    """Return the models of the file's skill table; LocalError where the file does not have exactly one table."""
    tables = load(skills, resolve=False).skill_tables
    if len(tables) != 1:
        raise LocalError([f"--simulator {skills}: has {len(tables)} resources of kind SkillTable: give exactly one"])
    return frozenset(expert.name for expert in tables[0].spec.experts)


def _pool_problems(pool: ExpertPool, *, simulated: frozenset[str] | None, environment: Mapping[str, str]) -> list[str]:
    name, endpoint = pool.metadata.name, pool.spec.endpoint
    if endpoint is None:
        return [f"ExpertPool {name}: type VLLM is not started locally yet; serve it and use type Endpoint with its URL"]
    if _is_simulator(pool) and simulated is None:
        return [f"ExpertPool {name}: its URL's host is `{SIMULATOR_HOST}`: give --simulator skills.yaml"]
    if _is_simulator(pool) and simulated is not None and endpoint.model not in simulated:
        known = ", ".join(sorted(simulated))
        return [f"ExpertPool {name}: spec.endpoint.model: the skill table has no {endpoint.model}; it has {known}"]
    reference = endpoint.api_key_secret_ref
    if reference is None:
        return []
    key, secret = environment.get(reference.variable, "").strip(), f"secret {reference.name}/{reference.key}"
    if not key:
        return [f"ExpertPool {name}: {secret}: set {reference.variable} in the environment"]
    if not key.isprintable():
        return [f"ExpertPool {name}: {secret}: {reference.variable} has a line break or is not printable"]
    return []


def _stand_ins(training: OrchestratorTraining) -> list[str]:
    spec = training.spec
    said = ["messaging: a nats-server for this run", "ray: a local Ray, with actors as local processes"]
    said.append("storage: the run's folder")
    ignored: dict[str, object] = {
        "queueName": spec.queue_name,
        "priorityClassName": spec.priority_class_name,
        "messaging.url": spec.messaging.url,
        "storage": spec.storage.existing_claim or spec.storage.uri,
        "models": spec.models.judge or spec.models.user_simulator,
        "suspend": spec.suspend,
        "activeDeadlineSeconds": spec.active_deadline_seconds,
    }
    said += [f"{name}: ignored on one machine" for name, value in ignored.items() if value]
    if spec.export is not None:
        said.append(f"export: to export/ in the run's folder instead of {spec.export.uri}")
    return said


def with_simulator(pool: ExpertPool, url: str) -> ExpertPool:
    """Return the pool with the local simulator's URL, if its endpoint has the host `simulator`."""
    endpoint = pool.spec.endpoint
    if endpoint is None or not _is_simulator(pool):
        return pool
    there, here = urlsplit(endpoint.url), urlsplit(url)
    moved = urlunsplit((here.scheme, here.netloc, there.path, there.query, ""))
    return pool.model_copy(
        update={"spec": pool.spec.model_copy(update={"endpoint": endpoint.model_copy(update={"url": moved})})}
    )


def dump(resource: Any) -> dict[str, Any]:
    """Return a resource as it stands in YAML."""
    found: dict[str, Any] = resource.model_dump(mode="json", by_alias=True, exclude_none=True)
    return found


def write_resources(path: Path, training: OrchestratorTraining, pools: Sequence[ExpertPool]) -> None:
    """Write the resolved resources as YAML, for the driver and for people."""
    documents = [dump(training), *(dump(pool) for pool in pools)]
    path.write_text(dump_all(documents), encoding="utf-8")
