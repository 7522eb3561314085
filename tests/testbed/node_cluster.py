"""A whole cluster on one machine: a control plane with its controllers, a node, an image registry, and volumes."""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import yaml

from testbed.api import Api, Refused
from testbed.binaries import Say, binaries
from testbed.control_plane import ControlPlane, NotReady, end
from testbed.network import HOST, REGISTRY
from testbed.node import Node, is_ready, node_path
from testbed.node_files import NODE_NAME
from testbed.place import taken
from toolorchestra.process import Child

VOLUMES = 16
VOLUME_SIZE = "20Gi"
STORAGE_CLASS = "testbed"
_READY_SECONDS = 180.0


class NodeCluster:
    """`with NodeCluster(folder) as cluster:` gives a cluster whose node is Ready; its end leaves the folder's logs.

    The folder is made anew. Whoever makes one has the machine's place for it until `stop`.

    Raises:
        CannotRun: another has it.
        CannotBuild: one of the programs cannot be had.

    `registry` is the prefix under which images are pushed from here and pulled by pods (plain HTTP).
    """

    registry = REGISTRY

    def __init__(self, folder: Path, *, say: Say = lambda line: print(line, file=sys.stderr)) -> None:
        self.folder, self._say = folder, say
        self._place = ExitStack()
        self._place.enter_context(taken())  # before anything is written: the folder may be a running cluster's
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._prepare()
        except BaseException:
            self._place.close()
            raise

    def _prepare(self) -> None:
        """Make, or build, all that `start` starts."""
        self.plane = ControlPlane(self.folder, controllers=True, scheduler=True, node_address=HOST, say=self._say)
        self.kubeconfig = self.plane.kubeconfig
        self.node = Node(self.plane, say=self._say)
        self.api = Api(self.kubeconfig)
        program = binaries(["registry"], say=self._say)["registry"]
        self._registry = Child(
            name="registry",
            argv=[str(program), "serve", str(self._registry_file())],
            log=self.folder / "logs" / "registry.log",
            env={"OTEL_TRACES_EXPORTER": "none"},
        )

    def start(self) -> Self:
        """Start everything; returns when the node is Ready."""
        start = time.monotonic()
        try:
            self.plane.start()
            self.node.start()
            self._registry.start()
            self._volumes()
            self._await_node()
        except BaseException:
            self.stop()
            raise
        self._say(f"testbed: the cluster is ready after {time.monotonic() - start:.0f} s")
        return self

    def stop(self) -> None:
        """End every process, namespace, mount and link, and remove images and volumes; logs stay in the folder."""
        with self._place, ExitStack() as steps:  # each is done whatever becomes of the others
            steps.callback(self.plane.stop)
            steps.callback(end, self._registry)
            steps.callback(self.node.stop)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _await_node(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not self._node_is_ready():
            self.node.check()
            if time.monotonic() > deadline:
                raise NotReady(f"the node is not Ready after {_READY_SECONDS:.0f} s\n{self.node.log_tails()}")
            time.sleep(0.2)

    def _node_is_ready(self) -> bool:
        try:
            return is_ready(self.api.get(node_path()))
        except Refused as refused:
            if refused.code != 404:
                raise
            return False

    def _registry_file(self) -> Path:
        path = self.folder / "registry.yaml"
        config = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "node" / "var-lib" / "registry")}},
            "http": {"addr": REGISTRY},
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def _volumes(self) -> None:
        """A default class and volumes of it that claims are bound to: folders of the node, kept when a claim goes."""
        storage_class = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": STORAGE_CLASS,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
        self.api.apply(f"/apis/storage.k8s.io/v1/storageclasses/{STORAGE_CLASS}", storage_class)
        for number in range(VOLUMES):
            volume = _volume(number)
            folder = self.folder / "node" / "var-lib" / "volumes" / str(number)
            folder.mkdir(parents=True)
            folder.chmod(0o777)
            self.api.apply(f"/api/v1/persistentvolumes/{volume['metadata']['name']}", volume)


def _volume(number: int) -> dict[str, Any]:
    on_this_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{STORAGE_CLASS}-{number}"},
        "spec": {
            "capacity": {"storage": VOLUME_SIZE},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
            "local": {"path": f"/var/lib/volumes/{number}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_this_node]}]}},
        },
    }
