"""`orchestra plan`: the preflight check: what resources need, may cost and lack, before anything starts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from toolorchestra.api.bundle import Bundle
from toolorchestra.api.mistakes import dotted
from toolorchestra.api.pool import ExpertPool
from toolorchestra.cli.cluster import Context, Files, Kubeconfig, Namespace, Output, connected, errors_said
from toolorchestra.cli.documents import DEFAULT_NAMESPACE, Documents, Sent, read
from toolorchestra.cluster_client.errors import NoClient, NoCluster, Unreachable
from toolorchestra.cluster_client.preflight.facts import Facts, Hidden
from toolorchestra.cluster_client.preflight.line import Line
from toolorchestra.kube.kinds import RAY_JOBS

if TYPE_CHECKING:
    from toolorchestra.cluster_client.kube import Kube

LEAST_GPU = 2**30
"""Least memory of one GPU, in bytes; a smaller number means that the unit was forgotten."""
MOST_GPU = 2**43
"""Most memory of one GPU, in bytes."""
MARKS = {"ok": "ok", "note": "note", "unknown": "?", "missing": "MISSING"}


def plan(
    files: Files = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    offline: Annotated[bool, typer.Option("--offline", help="Check the files only, without a cluster.")] = False,
    gpu_memory: Annotated[
        str | None,
        typer.Option(
            "--gpu-memory", help="Memory of one GPU, where the nodes have no label for it; an 80 GB card has 79Gi."
        ),
    ] = None,
    output: Output = "text",
) -> None:
    """Check whether trainings and pools can start, and say what to do where they cannot. Changes nothing.

    Checks GPUs, memory and the highest possible cost and, where there is a cluster, what it lacks. The exit status is
    0 where nothing is missing, else 1.

    Example: orchestra plan -f training.yaml -f pools.yaml -n research
    """
    kube, absent = _cluster(kubeconfig, context, namespace, offline=offline)
    documents = read(
        files, namespace=namespace, default=kube.namespace if kube else DEFAULT_NAMESPACE, resolve=kube is None
    )
    given = _gpu_bytes(gpu_memory)
    sections: list[tuple[str, list[Line]]] = []
    with errors_said():
        for one in documents.namespaces:
            lines = list(_section(documents, one, kube, given=given))
            sections.append((one, [*lines, *([absent] if absent else [])]))
    ok = all(line.level != "missing" for _, lines in sections for line in lines)
    if output == "json":
        typer.echo(json.dumps(_as_json(ok, kube, sections), indent=1))
    else:
        _print(sections, kube)
        missing = sum(line.level == "missing" for _, lines in sections for line in lines)
        things = "1 thing is" if missing == 1 else f"{missing} things are"
        typer.echo("plan: nothing is missing" if ok else f"plan: {things} missing")
    raise typer.Exit(0 if ok else 1)


def _cluster(
    kubeconfig: Path | None, context: str | None, namespace: str | None, *, offline: bool
) -> tuple[Kube | None, Line | None]:
    """Return the cluster, or the line that says why only the files are checked.

    Ends the command where options name a cluster that is not configured.
    """
    if offline:
        return None, Line("note", "cluster", "checked the files only (--offline)")
    try:
        return connected(kubeconfig=kubeconfig, context=context, namespace=namespace), None
    except (NoCluster, NoClient) as error:
        if context is not None or kubeconfig is not None:
            with errors_said():
                raise
        return None, Line("note", "cluster", f"checked the files only: {error}")


def _gpu_bytes(given: str | None) -> int | None:
    from toolorchestra.cli.say import fail
    from toolorchestra.cluster_client.preflight.memory import bytes_of

    size = None if given is None else bytes_of(given)
    if given is not None and size is None:
        fail(f"--gpu-memory {given}: not a quantity; write one such as 79Gi, which an 80 GB card has")
    if size is not None and not LEAST_GPU <= size <= MOST_GPU:
        much = f"{size:,} bytes" if size < LEAST_GPU else "more than any GPU has"
        fail(f"--gpu-memory {given}: is {much}; give the memory of one GPU with its unit, such as 79Gi")
    return size


def _section(documents: Documents, namespace: str, kube: Kube | None, *, given: int | None) -> Iterator[Line]:
    """Yield all lines about the resources of one namespace."""
    from toolorchestra.cluster_client.preflight.capacity import gpu_bytes
    from toolorchestra.cluster_client.preflight.cluster import cluster_lines, operator_variables
    from toolorchestra.cluster_client.preflight.compute import demands, gpu_lines
    from toolorchestra.cluster_client.preflight.look import look
    from toolorchestra.cluster_client.preflight.references import references

    sent = [one for one in documents.all if one.namespace == namespace]
    bundle = documents.bundle(namespace)
    named, wanted = references([one.resource for one in sent]), demands(bundle.pools, bundle.trainings)
    facts: Facts | None = None
    if kube is not None:
        manifests = [one.manifest for one in sent]
        gpus = any(one.gpus for one in wanted)
        try:
            facts = look(kube, namespace=namespace, references=tuple(named), documents=manifests, gpus=gpus)
        except Unreachable as error:
            yield Line("missing", "cluster", str(error), "or check the files only: --offline")
    there = _pools_there(facts, bundle)
    yield from _fits(sent, Bundle(pools=(*bundle.pools, *there), trainings=bundle.trainings))
    deployed = operator_variables(facts, namespace) if facts else {}
    kuberay = facts is None or RAY_JOBS.resource in facts.served
    yield from _would_be_refused(sent, there, deployed=deployed, kuberay=kuberay)
    yield from gpu_lines(wanted)
    yield from _memory_and_money(bundle, there, given or (gpu_bytes(facts) if facts else None))
    if facts is not None:
        about = {"pools": bundle.pools, "trainings": bundle.trainings, "references": named, "demands": wanted}
        yield from cluster_lines(facts, namespace=namespace, **about)  # type: ignore[arg-type]


def _pools_there(facts: Facts | None, bundle: Bundle) -> tuple[ExpertPool, ...]:
    """Return the pools of the cluster that are not in the files."""
    if facts is None or isinstance(facts.pools, Hidden):
        return ()
    found = []
    for live in facts.pools:
        try:
            found.append(ExpertPool.model_validate(live))
        except ValidationError:  # a pool of another API version: its own status reports it
            continue
    return tuple(pool for pool in found if bundle.pool(pool.metadata.name) is None)


def _fits(sent: Sequence[Sent], bundle: Bundle) -> Iterator[Line]:
    """Yield a line for every reference between resources that does not hold."""
    for one in sent:
        for path, message in bundle.findings(one.resource):
            yield Line("missing", "experts", f"{one.kind}/{one.name}: {dotted(path)}: {message}")


def _would_be_refused(
    sent: Sequence[Sent], there: Sequence[ExpertPool], *, deployed: Mapping[str, str], kuberay: bool
) -> Iterator[Line]:
    """Yield what the operator's admission would refuse.

    `deployed`: environment variables of the operator on the cluster; empty: this machine's settings are used.
    """
    from toolorchestra.cli.render import operator_settings, settings_of

    try:
        from toolorchestra_operator.runtime.rendering import render
        from toolorchestra_operator.runtime.settings import SettingsError
    except ModuleNotFoundError as error:
        yield Line("unknown", "operator", f"its admission cannot be checked here ({error.name} is not installed)")
        return
    try:
        settings = settings_of((), deployed) if deployed else operator_settings()
    except SettingsError as error:
        yield Line("missing", "operator", f"its settings are wrong: {error}", "correct the chart's values")
        return
    pools = [one.manifest for one in sent if one.kind == "ExpertPool"]
    namespace = sent[0].namespace
    for pool in there:
        document: dict[str, Any] = pool.model_dump(mode="json", by_alias=True, exclude_none=True)
        pools.append({**document, "metadata": {**document["metadata"], "namespace": namespace}})
    trainings = [one.manifest for one in sent if one.kind == "OrchestratorTraining"]
    for part in render(pools, trainings, settings=settings, kuberay=kuberay):
        name = f"{part.parent['kind']}/{part.parent['metadata']['name']}"
        if part.refused and part.parent["metadata"]["name"] in {one.name for one in sent}:
            yield Line("missing", "refused", f"{name}: the operator would say {part.refused}")


def _memory_and_money(bundle: Bundle, there: Sequence[ExpertPool], gpu_bytes: int | None) -> Iterator[Line]:
    from toolorchestra.cluster_client.preflight.memory import pool_lines, training_lines
    from toolorchestra.cluster_client.preflight.spend import spend_lines

    everything = Bundle(pools=(*bundle.pools, *there))
    for pool in bundle.pools:
        yield from pool_lines(pool, gpu_bytes=gpu_bytes)
    for training in bundle.trainings:
        yield from training_lines(training, gpu_bytes=gpu_bytes)
        yield from spend_lines(training, everything.experts(training.spec.tools))


def _as_json(ok: bool, kube: Kube | None, sections: Sequence[tuple[str, Sequence[Line]]]) -> dict[str, Any]:
    return {
        "ok": ok,
        "cluster": None if kube is None else {"server": kube.server, "context": kube.context},
        "lines": [{"namespace": name, **line.as_json()} for name, lines in sections for line in lines],
    }


def _print(sections: Sequence[tuple[str, Sequence[Line]]], kube: Kube | None) -> None:
    where = f" on {kube.named}" if kube is not None else ""
    for namespace, lines in sections:
        typer.echo(f"namespace {namespace}{where}")
        for line in lines:
            typer.echo(f"  {MARKS[line.level]:<8} {line.about:<10} {line.text}")
            if line.remedy and line.level != "ok":
                typer.echo(f"  {'':<8} {'':<10} -> {line.remedy}")
