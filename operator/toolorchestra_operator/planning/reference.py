"""docs/podtemplate.md: what an overlay may set, generated from the merge table."""

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
`podTemplate` is a part of a pod template that is merged into the pods which the operator creates. There are three:

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

What the operator sets is kept: an overlay adds, and replaces only where the table says *replace*. It takes effect
completely or not at all: a field that is not in the table is refused with its path (`Accepted=False`,
`InvalidPodTemplate`), and nothing is created. Images, commands, ports, probes, resources, root and service account
tokens are not in the table. An overlay has at most 64 KiB as JSON. The API server's own checks (pod security, quotas)
come after.

- **add**: new keys or items. One that the operator has set, or that occurs twice, is refused. The fields in the table
  identify the items of a list.
- **replace**: the overlay's value is used.

Types and names of fields are checked against the API server's own schema of pods, before anything is created.

**Trust.** What goes beyond the restricted pod security standard, and gives a pod access to more than itself, is
refused: the node's files (`hostPath`), network storage that pods mount without Kubernetes, the node's network,
processes and IPC, capabilities, `privileged`. A person who may write a training should not thereby control a node.
Where such access is wanted, for example for RDMA, the chart's `privilegedNamespaces` lists the namespaces whose
overlays may have it; the namespace's own pod security has to allow it too.

**Devices.** `resourceClaims` of `spec.ray.podTemplate` go to trainers and engines, not to the head. Each container gets
all of them (those of a pool and of the workers may name some themselves). Say in `resources.accelerator` whether they
compute: [install.md](install.md#gpus).
"""


def overlay_page() -> str:
    """Return the page, in Markdown."""
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
