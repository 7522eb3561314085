"""`orchestra get-model`: copy a training's exported model from its volume."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from toolorchestra.cli.cluster import Context, Kubeconfig, Namespace, errors_said
from toolorchestra.cli.following import LOOKED_AWAY
from toolorchestra.cli.place import Place
from toolorchestra.cli.say import fail

if TYPE_CHECKING:
    from toolorchestra.cluster_client.fetch import Execute
    from toolorchestra.cluster_client.kube import Kube

Which = Literal["last", "best"]


def get_model(
    name: Annotated[str, typer.Argument(help="A training on the cluster.", metavar="NAME")],
    to: Annotated[Path | None, typer.Option("--to", help="Folder to create; must not exist.", metavar="DIR")] = None,
    which: Annotated[
        Which, typer.Option("--which", help="The last policy, or the one with the best evaluation.")
    ] = "last",
    image: Annotated[
        str | None,
        typer.Option("--image", help="Image of the reading pod; default: the training's image.", metavar="IMAGE"),
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Copy the exported model (a Hugging Face folder) from the training's volume to this machine.

    The command verifies the digest of every file. It creates a pod without API rights that reads the volume, and
    deletes the pod at the end, also after Ctrl-C. You need the rights to create, get and delete pods, and to create
    pods/exec.

    Example: orchestra get-model router -n research --to router-model
    """
    if to is None:
        fail(f"no target folder given: orchestra get-model {name} --to DIR")
    try:
        with errors_said():
            from toolorchestra.cluster_client.fetch import check_target
            from toolorchestra.cluster_client.trainings import find

            check_target(to)
            kube = Place(kubeconfig, context, namespace).kube()
            _copy(kube, find(kube, name, namespace=kube.namespace), to, which=which, image=image)
    except KeyboardInterrupt:
        typer.echo("stopped: nothing was written", err=True)
        raise typer.Exit(LOOKED_AWAY) from None


def _copy(kube: Kube, training: dict[str, Any], to: Path, *, which: Which, image: str | None) -> None:
    from toolorchestra.cluster_client import reader
    from toolorchestra.cluster_client.execute import execute

    claim, folder = exported(training, which)
    template = reader.template_of(kube, training)
    image = reader.image_of(training, template, image)
    pod = reader.manifest(training, claim=claim, image=image, template=template)
    with reader.reading(kube, pod, say=lambda line: typer.echo(line, err=True)) as made:
        where = {"namespace": training["metadata"]["namespace"], "container": reader.CONTAINER}
        run = partial(execute, kube, made, **where)
        copy_folder(run, f"{reader.MOUNT}/{folder}", to, training=training)


def exported(training: dict[str, Any], which: Which) -> tuple[str, str]:
    """Return the PersistentVolumeClaim and the folder of the exported model; end the command where it is on none."""
    from toolorchestra.cluster_client.retention import claim_of, folder_of

    uri = (training.get("status") or {}).get("exportURI") or ""
    claim = claim_of(training)
    if uri and not uri.startswith("pvc://"):
        fail(f"the model is at {uri}: copy it with the tools of that store")
    if uri:
        found, _, path = uri.removeprefix("pvc://").partition("/")
        return found, f"{path.rpartition('/')[0]}/{which}"
    if claim is None:
        fail("the training has no volume to copy from (spec.storage.type: URI)")
    return claim, f"{folder_of(training)}/export/{which}"


def copy_folder(run: Execute, folder: str, to: Path, *, training: dict[str, Any]) -> None:
    """List the files, stream them, verify them, and rename the folder to `to`; a terminal shows a progress bar."""
    from toolorchestra.cluster_client.fetch import NoFolder, fetch, list_files
    from toolorchestra.cluster_client.trainings import line_of

    try:
        files = list_files(run, folder)
    except NoFolder as error:
        raise NoFolder(f"no model is exported yet ({line_of(training)}): {error}") from error
    size = sum(each.size for each in files.values())
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(training["metadata"]["name"], total=size)
        fetch(run, folder, to, files=files, progress=lambda data: bar.advance(task, data))
    typer.echo(f"{to}: {len(files)} files, {size / 2**20:.1f} MiB, every digest verified")
