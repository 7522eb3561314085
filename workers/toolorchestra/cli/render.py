"""`orchestra render`: print every object that the operator would make, as YAML, without a cluster."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from toolorchestra.cli.documents import DEFAULT_NAMESPACE, Documents, read

if TYPE_CHECKING:
    from toolorchestra_operator.runtime.rendering import Rendered
    from toolorchestra_operator.runtime.settings import Settings

CHART_NATS = "nats://toolorchestra-nats.toolorchestra-system:4222"
"""NATS URL that is used where no setting names one: that of the chart."""


def render(
    files: Annotated[
        list[Path] | None,
        typer.Option("-f", "--file", help="YAML file with resources, or a folder; can be repeated.", metavar="FILE"),
    ] = None,
    namespace: Annotated[str | None, typer.Option("-n", "--namespace", help="Namespace of the resources.")] = None,
    kuberay: Annotated[bool, typer.Option("--kuberay", help="Render as on a cluster that has KubeRay.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="After `--`: flags of the operator, such as --cpu-image; default: its environment variables and"
            " defaults."
        ),
    ] = None,
) -> None:
    """Print every object that the operator would make for the resources, in the order in which it makes them.

    Needs no cluster: UIDs and random keys are placeholders, and objects that a resource refers to count as existing.

    Example: orchestra render -f training.yaml -f pools.yaml -- --cpu-image registry.example/toolorchestra-cpu:1
    """
    documents = read(files, namespace=namespace, default=DEFAULT_NAMESPACE, resolve=True)
    refused = 0
    for part in rendered(documents, operator_settings(settings or ()), kuberay=kuberay):
        typer.echo(page(part), nl=False)
        if part.refused:
            refused += 1
            typer.echo(f"error: {_name(part)} would be refused: {part.refused}", err=True)
    if refused:
        raise typer.Exit(1)


def operator_settings(flags: list[str] | tuple[str, ...] = ()) -> Settings:
    """Return the operator's settings from its flags and environment; end the command where they are wrong."""
    from toolorchestra.cli.say import fail
    from toolorchestra_operator.runtime.settings import SettingsError

    try:
        return settings_of(flags, os.environ)
    except SettingsError as error:
        fail(str(error))


def settings_of(flags: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the operator's settings from `flags` and `environ`; SettingsError says what is wrong."""
    from toolorchestra_operator.runtime.settings import Settings

    found = Settings.read(list(flags), environ)
    return found if found.nats_url else found.model_copy(update={"nats_url": CHART_NATS})


def rendered(documents: Documents, settings: Settings, *, kuberay: bool) -> Iterator[Rendered]:
    """Yield what the operator would make for each resource, namespace by namespace."""
    from toolorchestra_operator.runtime.rendering import render as render_parts

    for namespace in documents.namespaces:
        pools = [one.manifest for one in documents.pools if one.namespace == namespace]
        trainings = [one.manifest for one in documents.trainings if one.namespace == namespace]
        yield from render_parts(pools, trainings, settings=settings, kuberay=kuberay)


def page(part: Rendered) -> str:
    """Return one resource's objects as YAML documents, under a comment that names the resource."""
    lines = [f"# {_name(part)}: {_what(part)}"]
    lines += [f"# on NATS: {name}" for name in part.streams]
    documents = [yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=140, allow_unicode=True) for one in part.objects]
    return "\n".join(lines) + "\n" + "".join(f"---\n{document}" for document in documents)


def _name(part: Rendered) -> str:
    metadata = part.parent["metadata"]
    return f"{part.parent['kind']} {metadata['namespace']}/{metadata['name']}"


def _what(part: Rendered) -> str:
    if part.refused:
        return f"refused: {part.refused}"
    number = len(part.objects)
    return "1 object" if number == 1 else f"{number or 'no'} objects"


_OTHERS_READ = re.compile(r"[yYnN]|[-+]?\.?\d[\da-fA-FxXoO_.+-]*")
"""Strings that PyYAML writes without quotes and kubectl may read as numbers or booleans: a commit 3491754e1, a `y`."""


class _Dumper(yaml.SafeDumper):
    """YAML dumper without aliases; strings of several lines become blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else '"' if _OTHERS_READ.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
