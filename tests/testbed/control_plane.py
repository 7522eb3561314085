"""A real control plane as processes of this one: etcd, kube-apiserver, and where asked the controllers and scheduler.

Invariants: all of its files lie in one folder, all of its ports are on this machine; every process dies with the one
that started it; the API server's address, certificates and data outlive its restarts.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import yaml

from testbed.audit import POLICY, AuditLog
from testbed.binaries import Say, binaries
from testbed.network import SERVICES
from testbed.pki import ADMIN_GROUP, Authority
from toolorchestra.process import Child, tail

_API_SERVICE = "10.96.0.1"
"""The first address of the range: what pods know the API server by."""
_READY_SECONDS = 300.0
"""A loaded machine takes minutes where a free one takes six seconds."""
_GRACE = 10.0


class NotReady(RuntimeError):
    """A component ended, or was not ready in time; the message ends with its log."""


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def end(child: Child, *, grace: float = _GRACE) -> None:
    """SIGTERM, `grace` seconds, then the whole process group; for callers without an event loop."""
    if not child.starts:
        return
    if child.alive:
        ended = os.pidfd_open(child.pid)
        try:
            child.signal(signal.SIGTERM)
            select.select([ended], [], [], grace)
        finally:
            os.close(ended)
    if child.returncode() is None:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    child.returncode()


class ControlPlane:
    """One cluster without nodes. `controllers` and `scheduler` are only needed by tests that want them to act.

    Without the controllers nothing collects garbage, makes pods of Deployments, or finishes deleting a namespace.
    `node_address` makes it fit for nodes: it listens on all addresses and says it is at that one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        controllers: bool = False,
        scheduler: bool = False,
        node_address: str = "",
        api_server_flags: Sequence[str] = (),
        say: Say = lambda line: print(line, file=sys.stderr),
    ) -> None:
        self.folder = folder
        self.audit_log = AuditLog(folder / "audit.log")
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        wanted = ["etcd", "kube-apiserver"]
        wanted += ["kube-controller-manager"] if controllers else []
        wanted += ["kube-scheduler"] if scheduler else []
        self.programs = binaries(wanted, say=say)
        self.authority = Authority(folder / "pki")
        hosts = ["127.0.0.1", "localhost", _API_SERVICE, "kubernetes.default.svc", "kubernetes.default"]
        self._serving = self.authority.issue(
            "kube-apiserver", name="kube-apiserver", hosts=[*hosts, *([node_address] if node_address else [])]
        )
        self._kubelet_client = self.authority.issue("kubelet-client", name="apiserver", groups=[ADMIN_GROUP])
        self._tokens = self.authority.signing_keys("service-accounts")
        self.kubeconfig = self.kubeconfig_of("admin", groups=[ADMIN_GROUP])
        etcd_port, peer_port = free_port(), free_port()
        self.etcd = self._child("etcd", self._etcd_flags(etcd_port, peer_port))
        flags = self._api_server_flags(etcd_port, node_address=node_address, controllers=controllers)
        self.api_server = self._child("kube-apiserver", [*flags, *api_server_flags])
        self.managers: list[Child] = []
        if controllers:
            self.managers.append(self._child("kube-controller-manager", self._controller_flags()))
        if scheduler:
            self.managers.append(self._child("kube-scheduler", self._manager_flags("kube-scheduler")))

    def start(self) -> Self:
        """Start everything; returns when the API server says that it is ready."""
        try:
            self.etcd.start()
            self.start_api_server()
            self.wait_ready()
            for manager in self.managers:
                manager.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every process; the folder stays."""
        for child in (*self.managers, self.api_server, self.etcd):
            end(child)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_api_server(self) -> None:
        """Spawn it, without waiting. Call it from the main thread: the kernel binds a child's life to its thread."""
        self.api_server.start()

    def stop_api_server(self) -> None:
        """End it, and wait for its end; etcd and its data stay."""
        end(self.api_server)

    def wait_ready(self, *, seconds: float = _READY_SECONDS) -> None:
        """Block until the API server is ready.

        Raises:
            NotReady: it ended, etcd did, or it takes longer.
        """
        deadline = time.monotonic() + seconds
        while not self._checked(deadline):
            time.sleep(0.1)

    async def restart_api_server(self, *, down: float = 0.0, kill: bool = False) -> None:
        """End the API server (`kill`: without notice), leave it away for `down` seconds, and wait until it is back."""
        await self.api_server.stop(grace=_GRACE, first=signal.SIGKILL if kill else signal.SIGTERM)
        await asyncio.sleep(down)
        self.start_api_server()
        await asyncio.to_thread(self.wait_ready)

    def kubeconfig_of(self, name: str, *, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for another user: one without a role is a way to meet 403s."""
        path = self.folder / f"{name.replace(':', '-')}.kubeconfig"
        return self.authority.kubeconfig(path, server=self.url, name=name, groups=groups)

    def _checked(self, deadline: float) -> bool:
        for child in (self.etcd, self.api_server):
            if not child.alive:
                raise NotReady(f"{child.name} ended with status {child.returncode()}; its log:\n{tail(child.log)}")
        if self._ready():
            return True
        if time.monotonic() > deadline:
            raise NotReady(f"{self.url} is not ready; the API server's log:\n{tail(self.api_server.log)}")
        return False

    def _ready(self) -> bool:
        trust = ssl.create_default_context(cafile=str(self.authority.certificate))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        try:
            with opener.open(f"{self.url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # refused, reset, timed out, or not ready yet (an HTTPError is one too)
            return False

    def _child(self, name: str, flags: Sequence[str]) -> Child:
        log = self.folder / "logs" / f"{name}.log"
        return Child(name=name, argv=[str(self.programs[name]), *flags], log=log)

    def _etcd_flags(self, port: int, peer_port: int) -> list[str]:
        here, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
        return [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={here}",
            f"--advertise-client-urls={here}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _api_server_flags(self, etcd_port: int, *, node_address: str, controllers: bool) -> list[str]:
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(yaml.safe_dump(POLICY))
        flags = [
            f"--etcd-servers=http://127.0.0.1:{etcd_port}",
            f"--secure-port={self.port}",
            f"--bind-address={'0.0.0.0' if node_address else '127.0.0.1'}",
            f"--advertise-address={node_address or '127.0.0.1'}",
            f"--tls-cert-file={self._serving.certificate}",
            f"--tls-private-key-file={self._serving.key}",
            f"--client-ca-file={self.authority.certificate}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._tokens.certificate}",
            f"--service-account-signing-key-file={self._tokens.key}",
            f"--service-cluster-ip-range={SERVICES}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log.path}",
            "--profiling=false",
        ]
        if node_address:
            flags += [
                "--kubelet-preferred-address-types=InternalIP",
                f"--kubelet-client-certificate={self._kubelet_client.certificate}",
                f"--kubelet-client-key={self._kubelet_client.key}",
                f"--kubelet-certificate-authority={self.authority.certificate}",
                "--enable-admission-plugins=NodeRestriction",
            ]
        else:
            flags.append("--endpoint-reconciler-type=none")
        if not controllers:
            # Nobody makes the service accounts that this plug-in wants every pod to have.
            flags.append("--disable-admission-plugins=ServiceAccount")
        return flags

    def _manager_flags(self, name: str) -> list[str]:
        kubeconfig = self.kubeconfig_of(f"system:{name}")
        return [
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
            "--profiling=false",
        ]

    def _controller_flags(self) -> list[str]:
        return [
            *self._manager_flags("kube-controller-manager"),
            f"--service-account-private-key-file={self._tokens.key}",
            f"--root-ca-file={self.authority.certificate}",
            "--use-service-account-credentials=true",
        ]
