"""The configuration of a node's programs, written into its folder. Pure text: nothing is started here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from testbed.image import PAUSE
from testbed.network import DNS, HOST, NODE, PODS, REGISTRY
from testbed.pki import ADMIN_GROUP, Authority

NODE_NAME = "node"
CGROUP = "toolorchestra-testbed"
"""Under every controller; all pods lie in it, so that one folder per controller is what is left to remove."""
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
_CNI_PLUGINS = "/usr/lib/cni"
"""Where Debian's containernetworking-plugins puts them."""

CONTAINERD = f"""\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE no score can be lowered
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{_CNI_PLUGINS}"
    conf_dir = "{{folder}}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{{folder}}/registries"
"""

REGISTRY_HOST = f"""\
server = "http://{REGISTRY}"
[host."http://{REGISTRY}"]
  capabilities = ["pull", "resolve"]
"""

CNI: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "testbed",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            # The machine has a route to the pods: nothing has to be masqueraded.
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": "/run/cni-networks",
            },
        }
    ],
}

# No `forward`: nothing outside of the cluster is asked, and unknown names fail at once.
COREFILE = f"""\
.:53 {{{{
    bind {DNS}
    errors
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa {{{{
        kubeconfig {{folder}}/coredns.kubeconfig
        pods insecure
    }}}}
    cache 5
}}}}
"""

KUBELET: dict[str, Any] = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}},
    "authorization": {"mode": "Webhook"},
    "cgroupDriver": "cgroupfs",
    "cgroupRoot": f"/{CGROUP}",
    "clusterDNS": [DNS],
    "clusterDomain": "cluster.local",
    "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
    # A test machine's disk is fuller than a server's, and its images must not go while a test runs.
    "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    "imageGCHighThresholdPercent": 100,
    "failCgroupV1": False,
    "failSwapOn": False,
    "makeIPTablesUtilChains": False,
    "serializeImagePulls": False,
}

KUBE_PROXY: dict[str, Any] = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "nftables",
    "clusterCIDR": PODS,
    "hostnameOverride": NODE_NAME,
    # Limits of the whole machine, which a network namespace may not set.
    "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
}


def write_node_files(folder: Path, authority: Authority, *, port: int) -> None:
    """Everything that the node's programs read; the API server is at `port` of the machine."""
    server = f"https://{HOST}:{port}"
    users = {
        "kubelet": (f"system:node:{NODE_NAME}", ["system:nodes"]),
        "kube-proxy": ("system:kube-proxy", []),
        "coredns": ("system:coredns", [ADMIN_GROUP]),
    }
    for file, (name, groups) in users.items():
        authority.kubeconfig(folder / f"{file}.kubeconfig", server=server, name=name, groups=groups)
    serving = authority.issue("kubelet-serving", name=f"system:node:{NODE_NAME}", hosts=[NODE, NODE_NAME])
    kubelet = KUBELET | {
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
        "resolvConf": str(folder / "resolv.conf"),
    }
    kubelet["authentication"] = KUBELET["authentication"] | {"x509": {"clientCAFile": str(authority.certificate)}}
    proxy = KUBE_PROXY | {"clientConnection": {"kubeconfig": str(folder / "kube-proxy.kubeconfig")}}
    texts = {
        "containerd.toml": CONTAINERD.format(folder=folder),
        f"registries/{REGISTRY}/hosts.toml": REGISTRY_HOST,
        "cni/10-testbed.conflist": json.dumps(CNI, indent=2),
        "Corefile": COREFILE.format(folder=folder),
        "kubelet.yaml": yaml.safe_dump(kubelet),
        "kube-proxy.yaml": yaml.safe_dump(proxy),
        "resolv.conf": f"nameserver {DNS}\n",
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in ("var-lib", "var-log"):
        (folder / name).mkdir(exist_ok=True)
