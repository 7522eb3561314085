"""Infrastructure of a training: Ray, messaging, storage, checkpoints, export, telemetry, spending limit."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field

from toolorchestra.api.base import PARENT, ComputeResources, Model, Resources, SecretKeyRef
from toolorchestra.api.model import Cache, EphemeralClaim, ExistingClaim
from toolorchestra.api.pool import gpus_match_shards, one_gpu_each
from toolorchestra.api.rules import NEW_TRAINING, immutable, rule, ruled, union
from toolorchestra.api.scalars import URI, URL, USD, Count, Fraction, Image, NatsURL, Opaque


class RayHead(Model):
    """The head's pod, which runs the controller."""

    resources: Resources = Field(default_factory=Resources, json_schema_extra=PARENT)
    """Resources of the head's pod."""


class RayTrainers(Model):
    """The trainers, which form one process group."""

    model_config = ruled(one_gpu_each())

    replicas: Annotated[Count, Field(le=1024)] = 1
    """Trainer pods; each holds a shard of the model."""
    resources: ComputeResources = Field(default_factory=ComputeResources, json_schema_extra=PARENT)
    """Resources of one trainer, such as {limits: {nvidia.com/gpu: 1, memory: 64Gi}}."""


class RayEngines(Model):
    """The engines: vLLM servers of the policy."""

    model_config = ruled(gpus_match_shards())

    replicas: Annotated[Count, Field(le=1024)] = 1
    """Engine pods; more engines give more episodes per hour."""
    tensor_parallel_size: Annotated[Count, Field(le=64)] = 1
    """GPUs per engine; equals the GPU limit, if one is set."""
    start_timeout_seconds: Annotated[Count, Field(le=86400)] | None = None
    """Most seconds of an engine's start, while it makes progress; absent: 1800, plus 1 per 50 MB of weights."""
    resources: ComputeResources = Field(default_factory=ComputeResources, json_schema_extra=PARENT)
    """Resources of one engine, such as {limits: {nvidia.com/gpu: 1, memory: 64Gi}}."""


def _one_of_each(s: Mapping[str, Any]) -> bool:
    engines = s["engines"]
    alike = s["trainers"]["replicas"] == engines["replicas"] and engines["tensorParallelSize"] == 1
    return s.get("placement") != "Shared" or alike


def _asked_for_once(s: Mapping[str, Any]) -> bool:
    wanted = s["engines"]["resources"]
    return s.get("placement") != "Shared" or not (wanted.get("limits") or wanted.get("requests"))


_APART = "!has(self.placement) || self.placement != 'Shared'"
_NOTHING_ASKED = " && ".join(
    f"(!has(self.engines.resources.{kind}) || size(self.engines.resources.{kind}) == 0)"
    for kind in ("limits", "requests")
)


def sharing() -> list[dict[str, str]]:
    """Return the rules of placement Shared: trainers and engines in pairs, and resources in one place only."""
    return [
        rule(
            f"{_APART} || (self.trainers.replicas == self.engines.replicas && self.engines.tensorParallelSize == 1)",
            "Shared puts one trainer and one engine on each GPU: it needs trainers.replicas equal to engines.replicas,"
            " and engines.tensorParallelSize 1",
            check=_one_of_each,
            defaulted=("trainers", "engines"),
            at="placement",
        ),
        rule(
            f"{_APART} || !has(self.engines.resources) || ({_NOTHING_ASKED})",
            "with placement Shared a trainer and its engine are one pod: set both resources in trainers.resources",
            check=_asked_for_once,
            defaulted=("engines",),
            at="engines",
        ),
    ]


class Ray(Model):
    """The training's Ray cluster; it may change only while the training is suspended."""

    model_config = ruled(immutable("provider", "modelCache", why=NEW_TRAINING), sharing())

    provider: Literal["Auto", "KubeRay", "Builtin"] = "Auto"
    """Who creates the cluster; Auto: KubeRay, if it is installed when the training is admitted, else Builtin."""
    image: Image | None = None
    """Image of all its pods, such as registry.example/toolorchestra-gpu:1; absent: the chart's image for GPU or CPU."""
    head: RayHead = Field(default_factory=RayHead, json_schema_extra=PARENT)
    """The head's pod, which runs the controller. No GPU."""
    trainers: RayTrainers = Field(default_factory=RayTrainers, json_schema_extra=PARENT)
    """The pods that run the optimizer steps."""
    engines: RayEngines = Field(default_factory=RayEngines, json_schema_extra=PARENT)
    """The pods that serve the policy with vLLM to the rollout workers."""
    placement: Literal["Separate", "Shared"] | None = None
    """Shared: a trainer and an engine on each GPU; absent: Shared on one machine with one GPU, else Separate."""
    model_cache: Cache | None = None
    """Volume for the initial weights and compiled code; absent: none."""
    pod_template: Opaque | None = None
    """Overlay on head, trainers and engines: tolerations, nodeSelector, …; docs/podtemplate.md lists the fields."""


class Messaging(Model):
    """The NATS server; what is absent is taken from the chart."""

    url: NatsURL | None = None
    """Server, such as nats://nats.messaging:4222; absent: the chart's."""
    controller_secret_ref: SecretKeyRef | None = None
    """Secret with the controller's whole URL, including credentials: nats://user:password@host:4222."""
    worker_secret_ref: SecretKeyRef | None = None
    """The same for the rollout workers."""
    stream_replicas: Annotated[Count, Field(le=5)] | None = None
    """Copies of every stream: 1, 3 or 5; absent: the chart's."""


class Storage(Model):
    """Where checkpoints and the journal are stored."""

    model_config = ruled(
        union(EphemeralClaim="ephemeralClaim?", ExistingClaim="existingClaim", URI="uri"),
        immutable("type", "ephemeralClaim", "existingClaim", "uri", "secretRef", why=NEW_TRAINING),
        immutable("retentionPolicy", why="it had effect when the volume was made; now only the claim's owner counts"),
    )

    type: Literal["EphemeralClaim", "ExistingClaim", "URI"] = "EphemeralClaim"
    """A new volume for the training, an existing volume, or an object store."""
    ephemeral_claim: EphemeralClaim | None = None
    """With type EphemeralClaim; absent: its defaults."""
    existing_claim: ExistingClaim | None = None
    """With type ExistingClaim."""
    uri: URI | None = None
    """With type URI."""
    secret_ref: SecretKeyRef | None = None
    """Credentials of the object store."""
    retention_policy: Literal["Retain", "Delete"] = "Retain"
    """For a volume made for the training. Retain: it has no owner, so it stays when the resource is deleted; another
    training can use it (ExistingClaim)."""


class Checkpoint(Model):
    """How often checkpoints are written, and how many are kept."""

    every_steps: Count = 10
    """Steps between checkpoints; a preemption loses at most so many steps."""
    keep: Annotated[Count, Field(le=1000)] = 3
    """Checkpoints kept; the last good and the best are always kept."""


class Export(Model):
    """Where the finished model goes."""

    uri: Annotated[str, Field(max_length=1024, pattern=r"^(pvc|s3|file)://[^\s]+$")]
    """Hugging Face folder of the best and the last model: `pvc://claim/path` or `s3://bucket/prefix`."""
    secret_ref: SecretKeyRef | None = None
    """Credentials of the object store."""


class Telemetry(Model):
    """Traces and metrics."""

    otlp_endpoint: URL | None = None
    """OpenTelemetry collector (OTLP over HTTP), such as http://collector:4318; absent: the chart's, or none."""
    span_group: Literal["off", "default", "per_turn", "all"] = "default"
    """Which spans are made. (`off` needs quotes in YAML.)"""
    ratio: Fraction = Decimal("1")
    """Share of groups that are traced, from "0" to "1"."""


class Limits(Model):
    """Limits of the whole run."""

    max_spend_usd: USD | None = None
    """Most US dollars to pay in all, such as "500"; checked before each call. When reached, the training pauses."""
