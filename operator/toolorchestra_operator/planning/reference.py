"""docs/podtemplate.md: what an overlay may set, out of the table by which it is merged."""

from __future__ import annotations

from toolorchestra.api.reference.page import GENERATED, escaped
from toolorchestra_operator.planning.overlay import (
    RESERVED_LABELS,
    RESERVED_VARIABLES,
    Merge,
    merge_table,
)

INTRO = f"""# Overlays on pods

{GENERATED}
`podTemplate` is a piece of a pod template that is merged into the pods which the operator makes. There are three:

| field | pods | main container |
| --- | --- | --- |
| `spec.ray.podTemplate` of a training | head, trainers and engines, one for all | none: they have three names |
| `spec.rollout.podTemplate` of a training | rollout workers | `workers` |
| `spec.vllm.podTemplate` of a pool | vLLM's servers | `vllm` |

```yaml
podTemplate:
  metadata:
    annotations: {{k8s.v1.cni.cncf.io/networks: roce}}
  spec:
    tolerations: [{{key: nvidia.com/gpu, operator: Exists}}]
    nodeSelector: {{node.example/pool: a100}}
    containers:
    - name: vllm
      env: [{{name: HTTPS_PROXY, value: "http://proxy.example:3128"}}]
```

What the operator sets stays as it is: an overlay adds, and replaces only what the table calls so. It is obeyed whole
or not at all: a field that is not in the table is refused with its path (`Accepted=False`, `InvalidPodTemplate`), and
nothing is made. Images, commands, ports, probes, resources, root and service account tokens are not in it. An
overlay has at most 64 KiB as JSON. The API server's own checks come after: pod security, quotas.

**add**: further keys or items; one that the operator has set, or that is there twice, is refused. Items of a list are
told apart by the fields that are named. **replace**: the overlay's value holds. Types and names of fields are held
against the API server's own schema of pods, before anything is made.

**Trust.** What lets a pod out of itself, beyond the restricted pod security standard, is refused: the node's files
(`hostPath`) and network storage that pods mount past Kubernetes, the node's network, processes and IPC, capabilities,
`privileged`. A person who may write a training is not thereby a person who may own a node. Where that is wanted, for
RDMA say, the chart's `privilegedNamespaces` names the namespaces whose overlays may do it; the namespace's own pod
security has to allow it too.

**Devices.** `resourceClaims` of `spec.ray.podTemplate` go to trainers and engines, not to the head, and each container
gets all of them (a pool's and the workers' may name some themselves). Say in `resources.accelerator` whether they
compute: [install.md](install.md#gpus).
"""


def overlay_page() -> str:
    """The page, in Markdown."""
    rows = (f"| `{path}` | {how} | {escaped(_limit(path, merge))} |" for path, how, merge in merge_table())
    return "\n".join([INTRO, "| field | | limits |", "| --- | --- | --- |", *rows, ""])


def _limit(path: str, merge: Merge) -> str:
    trust = f"with trust only: {merge.trust}" if merge.trust else ""
    return "; ".join(filter(None, (_refused(path, merge), trust)))


def _refused(path: str, merge: Merge) -> str:
    if path in ("metadata.labels", "metadata.annotations"):
        return f"keys that begin with {', '.join(f'`{prefix}`' for prefix in RESERVED_LABELS)} are the operator's"
    if path.endswith(".env"):
        return f"not {', '.join(f'`{name}`' for name in RESERVED_VARIABLES)}"
    return merge.limit
