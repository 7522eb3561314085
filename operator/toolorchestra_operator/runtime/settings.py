"""The settings of the operator's process: each is a flag, or the environment variable of the same name."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_serializer, field_validator

from toolorchestra.api.scalars import ObjectName
from toolorchestra.bus.nats_url import mistake, shown, told
from toolorchestra_operator.errors import OperatorError
from toolorchestra_operator.planning.container_resources import DefaultResources
from toolorchestra_operator.pools.reach import ANY, is_listable

PREFIX: Final = "TOOLORCHESTRA_OPERATOR_"

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_HTTP_URL: Final = re.compile(r"^https?://[^\s/]+(/\S*)?$")
Image = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class SettingsError(OperatorError, ValueError):
    """An invalid setting; the message names its flag and variable."""


class Settings(BaseModel):
    """The operator's configuration. A flag takes precedence over its environment variable. Durations in seconds.

    Variables with the prefix that are not settings are ignored: Kubernetes creates some for a Service of that name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kubeconfig: Path | None = Field(
        None, description="cluster and user to use; without it the pod's service account, outside a pod $KUBECONFIG"
    )
    watch_namespaces: tuple[ObjectName, ...] = Field(
        (), description="the namespaces to watch, separated by commas; none: the whole cluster"
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(4, description="resources that are reconciled at the same time")
    resync_seconds: Seconds = Field(300.0, description="every resource is reconciled at least this often")
    pass_seconds: Seconds = Field(120.0, description="the longest time for one reconcile of one resource")
    backoff_seconds: Seconds = Field(0.5, description="the wait after a first failure; it doubles up to the resync's")
    request_seconds: Seconds = Field(15.0, description="the longest time for one request to the API server")
    watch_seconds: Annotated[int, Field(ge=5, le=86_400)] = Field(
        300, description="a watch is opened again after this long"
    )
    discovery_seconds: Seconds = Field(
        60.0, description="how often to check for KubeRay's and Kueue's kinds (the operator restarts if they change)"
    )
    stuck_seconds: Seconds = Field(
        600.0, description="not healthy if a resource has waited, or a reconcile has taken, longer than this"
    )
    silence_seconds: Seconds = Field(
        300.0, description="not healthy if a watch has received nothing, not even a bookmark, for longer than this"
    )
    host: str = Field("0.0.0.0", description="the address on which health and metrics are served")
    health_port: Annotated[int, Field(ge=1, le=65535)] = Field(8080, description="port of /healthz and /readyz")
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(8081, description="port of /metrics; 0: not served")

    cpu_image: Image = Field("toolorchestra-cpu", description="image of heads, trainers and engines without a GPU")
    gpu_image: Image = Field("toolorchestra-gpu", description="image of heads, trainers and engines with GPUs")
    worker_image: Image = Field("toolorchestra-worker", description="image of rollout workers")
    pool_gpu_image: Image = Field(
        "toolorchestra-gpu", description="image of pools' servers with GPUs, if they name none"
    )
    pool_cpu_image: Image = Field("toolorchestra-cpu", description="image of pools' servers without a GPU")
    image_pull_secrets: tuple[ObjectName, ...] = Field(
        (), description="names of Secrets with which every pod pulls images, separated by commas"
    )
    nats_url: str | None = Field(None, description="NATS server of trainings that name none", repr=False)
    stream_replicas: Annotated[int, Field(ge=1, le=5)] = Field(1, description="copies of streams on that NATS server")
    otlp_endpoint: str | None = Field(
        None, description="OpenTelemetry collector of trainings and pools that name none", repr=False
    )
    training_metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="port on which the heads of trainings serve /metrics; 0: not served"
    )
    own_namespace: str | None = Field(
        None, description="namespace of the operator's pod, from which pools admit its probes; unset: from anywhere"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (ANY,),
        description="hosts of pools' endpoints, separated by commas: names, *.example.com, addresses, networks; * is "
        "every host with a public address",
    )
    secrets_need_label: bool = Field(
        True, description="pools may refer only to Secrets with the label toolorchestra.dev/secret-for=pools"
    )
    default_resources: DefaultResources = Field(
        DefaultResources(),
        description="JSON: requests and limits of head, trainers, engines, workers and pools if a spec has none",
    )
    privileged_namespaces: tuple[ObjectName, ...] = Field(
        (), description="namespaces whose podTemplates may weaken their pods (hostPath, …), separated by commas"
    )
    cpu_threads: Annotated[int, Field(ge=1)] = Field(
        1, description="threads of a trainer or an engine that has neither a GPU nor a CPU limit"
    )

    @field_validator("default_resources", mode="before")
    @classmethod
    def _json(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("watch_namespaces", "image_pull_secrets", "allowed_hosts", "privileged_namespaces", mode="before")
    @classmethod
    def _parts(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [one for one in value if not is_listable(one)]:
            raise ValueError(f"neither a host, nor *.host, an address, a network or *: {', '.join(wrong)}")
        return value

    @field_validator("kubeconfig", "nats_url", "otlp_endpoint", "own_namespace", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return value or None

    @field_validator("nats_url")
    @classmethod
    def _is_nats_url(cls, value: str | None) -> str | None:
        if value is not None and (wrong := mistake(value)):
            raise ValueError(wrong)
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_http_url(cls, value: str | None) -> str | None:
        if value is not None and not _HTTP_URL.match(value):
            raise ValueError("an http:// or https:// URL is wanted, for instance http://collector.observability:4318")
        return value

    @field_validator("host")
    @classmethod
    def _is_address(cls, value: str) -> str:
        ip_address(value)
        return value

    @field_serializer("nats_url", "otlp_endpoint", when_used="json")
    def _shown(self, value: str | None) -> str | None:
        """Return the URL without credentials, for what is written down."""
        return None if value is None else shown(value)

    @classmethod
    def read(cls, argv: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Self:
        """Read flags and environment. SettingsError: an invalid setting; SystemExit: `--help`, or an unknown flag."""
        env = os.environ if environ is None else environ
        given = {name: env[variable(name)] for name in cls.model_fields if env.get(variable(name))}
        flags = vars(_parser(cls).parse_args(list(argv)))
        given |= {name: value for name, value in flags.items() if value is not None}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise SettingsError("\n".join(_said(one) for one in error.errors())) from error


def variable(name: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + name.upper()


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parser(model: type[Settings]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toolorchestra-operator",
        description="Manages the OrchestratorTrainings and ExpertPools of a cluster.",
        epilog="Every flag may be given as the variable in brackets. Logs: TOOLORCHESTRA_LOG_FORMAT=auto|json|text, "
        "TOOLORCHESTRA_LOG_LEVEL. Traces: OTEL_TRACES_EXPORTER and OpenTelemetry's other variables.",
    )
    for name, field in model.model_fields.items():
        default = field.get_default()
        shown = "" if default in (None, (), DefaultResources()) else f"; default {default}"
        parser.add_argument(
            _flag(name),
            metavar=name.rsplit("_", 1)[-1].upper(),
            help=f"{field.description}{shown} [{variable(name)}]".replace("%", "%%"),
        )
    return parser


def _said(error: Mapping[str, Any]) -> str:
    name = str(error["loc"][0])
    # The variable may hold a secret that was meant for another one.
    return f"{_flag(name)} ({variable(name)}) = {told(str(error['input']))!r}: {error['msg']}"
