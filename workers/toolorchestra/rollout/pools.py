"""The pool file: the addresses of a worker's experts, written by its starter (local backend, operator).

The file never contains keys. An entry names the environment variable that has its key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolorchestra.api.documents import read_documents
from toolorchestra.api.load import load
from toolorchestra.api.mistakes import ResourceError
from toolorchestra.api.pool import ExpertPool
from toolorchestra.experts.build import build_endpoint
from toolorchestra.experts.endpoint import Endpoint, Limits
from toolorchestra.rollout.errors import RolloutError
from toolorchestra.tools.view import Price


class PoolFileError(RolloutError, ValueError):
    """A pool file cannot be used. The message has each mistake with its path, or the missing variable."""


class PoolEntry(BaseModel):
    """One expert: an `Endpoint` without its API key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: str
    url: str
    model: str
    price: Price = Price()
    limits: Limits = Limits()
    api_key_env: str | None = None
    """Environment variable with the API key."""
    parameters: dict[str, float | str] = Field(default_factory=dict)
    parameter_names: dict[str, str] = Field(default_factory=dict)
    simulated: bool = False
    timeout_seconds: float = 600.0

    @classmethod
    def of(cls, endpoint: Endpoint, *, api_key_env: str | None = None) -> PoolEntry:
        """Return the entry of an endpoint. The worker needs its key, if it has one, in the variable `api_key_env`."""
        fields = {name: value for name, value in vars(endpoint).items() if name != "api_key"}
        return cls(**fields, api_key_env=api_key_env)

    def endpoint(self, *, environment: Mapping[str, str]) -> Endpoint:
        """Return the endpoint with the key from the environment. PoolFileError if the key is not set."""
        key = None
        if self.api_key_env is not None:
            key = environment.get(self.api_key_env, "").strip()  # files and Secrets often end with a newline
            if not key:
                raise PoolFileError(f"pool {self.pool}: set {self.api_key_env} to its API key")
            if not key.isprintable():
                raise PoolFileError(
                    f"pool {self.pool}: {self.api_key_env} has a line break or another control character; an API key"
                    " has none"
                )
        return Endpoint(
            pool=self.pool,
            url=self.url,
            model=self.model,
            price=self.price,
            limits=self.limits,
            api_key=key,
            parameters=self.parameters,
            parameter_names=self.parameter_names,
            simulated=self.simulated,
            timeout_seconds=self.timeout_seconds,
        )


class PoolFile(BaseModel):
    """The pool file's content: `{"pools": […]}`, JSON or YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pools: tuple[PoolEntry, ...]

    def write(self, path: Path) -> None:
        """Write the file as JSON."""
        path.write_text(self.model_dump_json(indent=1), encoding="utf-8")


def read_pools(path: Path, *, environment: Mapping[str, str]) -> Sequence[Endpoint]:
    """Return the endpoints of a pool file. PoolFileError lists every mistake of the file."""
    documents, mistakes = read_documents(path)
    if mistakes:
        raise PoolFileError("\n".join(map(str, mistakes)))
    if len(documents) > 1:
        raise PoolFileError(f"{path}: holds {len(documents)} documents: want one")
    try:
        file = PoolFile.model_validate(documents[0].data)
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()]
        raise PoolFileError("\n".join(lines)) from error
    names = [entry.pool for entry in file.pools]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise PoolFileError(f"{path}: pools named twice: {', '.join(doubled)}")
    return [entry.endpoint(environment=environment) for entry in file.pools]


def read_resources(path: Path, *, environment: Mapping[str, str]) -> Sequence[Endpoint]:
    """Return the endpoints of the experts of the only training in a resources file, as a cluster's workers get them.

    PoolFileError says what is wrong."""
    try:
        bundle = load([str(path)])
        training = bundle.training()
    except (ResourceError, OSError) as error:
        raise PoolFileError(str(error)) from error
    pools = bundle.experts(training.spec.tools)
    entries = pool_file(pools, workers=training.spec.rollout.workers).pools
    return [entry.endpoint(environment=environment) for entry in entries]


def pool_file(pools: Sequence[ExpertPool], *, workers: int) -> PoolFile:
    """Return the pool file of the workers. Keys stay in the environment."""
    return PoolFile(pools=tuple(_entry(pool, workers=workers) for pool in pools))


def _entry(pool: ExpertPool, *, workers: int) -> PoolEntry:
    endpoint = build_endpoint(pool, secrets=lambda _: "", clients=workers)
    reference = pool.spec.endpoint.api_key_secret_ref if pool.spec.endpoint else None
    return PoolEntry.of(endpoint, api_key_env=reference.variable if reference else None)
