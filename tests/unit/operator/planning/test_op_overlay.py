"""The podTemplate overlay: what it adds, and what it may not touch."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.cluster.openapi_excerpt import schemas
from toolorchestra_operator.planning.overlay import (
    MOST_BYTES,
    VOLUME_TYPES,
    Rejected,
    merge_table,
    overlaid,
    shape_mistakes,
    with_claims,
)

TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"toolorchestra.dev/pool": "qwen"}, "annotations": {"toolorchestra.dev/a": "1"}},
    "spec": {
        "automountServiceAccountToken": False,
        "imagePullSecrets": [{"name": "chart"}],
        "securityContext": {"runAsUser": 1000, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "vllm",
                "image": "vllm:1",
                "command": ["python3"],
                "env": [{"name": "HOME", "value": "/tmp"}],
                "resources": {"limits": {"nvidia.com/gpu": 1}},
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    },
}


def spec(**fields: Any) -> dict[str, Any]:
    return {"spec": fields}


def main(**fields: Any) -> dict[str, Any]:
    return spec(containers=[{"name": "vllm", **fields}])


def merged(overlay: Any) -> dict[str, Any]:
    found = overlaid(TEMPLATE, overlay, container="vllm")
    assert not isinstance(found, Rejected), found
    return found


def at(manifest: Any, path: str) -> Any:
    for step in path.split("."):
        manifest = manifest[0] if step == "0" else manifest[step]
    return manifest


TOLERATION = {"key": "gpu", "operator": "Exists"}
SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
AFFINITY = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}


@pytest.mark.parametrize(
    ("overlay", "path", "expected"),
    [
        ({"metadata": {"labels": {"team": "a"}}}, "metadata.labels", {"team": "a", "toolorchestra.dev/pool": "qwen"}),
        ({"metadata": {"annotations": {"x": "y"}}}, "metadata.annotations", {"x": "y", "toolorchestra.dev/a": "1"}),
        (spec(tolerations=[TOLERATION, TOLERATION]), "spec.tolerations", [TOLERATION]),
        (spec(nodeSelector={"gpu": "h100"}), "spec.nodeSelector", {"gpu": "h100"}),
        (spec(affinity=AFFINITY), "spec.affinity", AFFINITY),
        (spec(topologySpreadConstraints=[SPREAD]), "spec.topologySpreadConstraints", [SPREAD]),
        (spec(runtimeClassName="nvidia"), "spec.runtimeClassName", "nvidia"),
        (spec(schedulerName="volcano"), "spec.schedulerName", "volcano"),
        (spec(priorityClassName="high"), "spec.priorityClassName", "high"),
        (spec(serviceAccountName="s3-reader"), "spec.serviceAccountName", "s3-reader"),
        (spec(resourceClaims=[{"name": "g"}]), "spec.resourceClaims", [{"name": "g"}]),
        (spec(imagePullSecrets=[{"name": "me"}]), "spec.imagePullSecrets", [{"name": "chart"}, {"name": "me"}]),
        (spec(securityContext={"runAsUser": 2000}), "spec.securityContext.runAsUser", 2000),
        (spec(securityContext={"supplementalGroups": [44]}), "spec.securityContext.runAsNonRoot", True),
        (spec(securityContext={"fsGroup": 5}), "spec.securityContext.seccompProfile.type", "RuntimeDefault"),
        (main(resources={"claims": [{"name": "g"}]}), "spec.containers.0.resources.limits", {"nvidia.com/gpu": 1}),
        (
            main(securityContext={"capabilities": {"add": ["NET_BIND_SERVICE"]}}),
            "spec.containers.0.securityContext.capabilities",
            {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        ),
        (
            main(env=[{"name": "NCCL_DEBUG", "value": "INFO"}]),
            "spec.containers.0.env",
            [{"name": "HOME", "value": "/tmp"}, {"name": "NCCL_DEBUG", "value": "INFO"}],
        ),
        (
            main(volumeMounts=[{"name": "ib", "mountPath": "/ib"}]) | {"metadata": None},
            "spec.containers.0.volumeMounts",
            [{"name": "tmp", "mountPath": "/tmp"}, {"name": "ib", "mountPath": "/ib"}],
        ),
    ],
)
def test_what_may_be_set(overlay: Any, path: str, expected: Any) -> None:
    assert at(merged(overlay), path) == expected


TOKEN = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}


@pytest.mark.parametrize(
    ("overlay", "said"),
    [
        (main(image="mine"), "podTemplate.spec.containers[0].image: the operator sets this"),
        (main(command=["sh"]), "containers[0].command"),
        (main(args=["--x"]), "containers[0].args"),
        (main(ports=[{"containerPort": 1}]), "containers[0].ports"),
        (main(readinessProbe={}), "containers[0].readinessProbe"),
        (main(livenessProbe={}), "containers[0].livenessProbe"),
        (main(lifecycle={}), "containers[0].lifecycle"),
        (main(resources={"limits": {"cpu": 1}}), "containers[0].resources.limits"),
        (main(env=[{"name": "HOME", "value": "/root"}]), "env[0]: HOME is there already"),
        (main(env=[{"name": "VLLM_SERVER_DEV_MODE", "value": "1"}]), "VLLM_SERVER_DEV_MODE is the operator's"),
        (main(env=[{"value": "1"}]), "env[0]: name is wanted"),
        (main(volumeMounts=[{"name": "x", "mountPath": "/tmp"}]), "/tmp is there already"),
        (main(securityContext={"privileged": True}), "securityContext.privileged"),
        (main(securityContext={"allowPrivilegeEscalation": True}), "allowPrivilegeEscalation"),
        (main(securityContext={"capabilities": {"drop": []}}), "capabilities.drop"),
        (main(securityContext={"readOnlyRootFilesystem": False}), "it can only be switched on"),
        (main(securityContext={"runAsUser": 0}), "these pods do not run as root"),
        (spec(securityContext={"runAsNonRoot": False}), "runAsNonRoot: it can only be switched on"),
        (spec(securityContext={"seccompProfile": {"type": "Unconfined"}}), "securityContext.seccompProfile"),
        (spec(volumes=[{"name": "tmp", "hostPath": {"path": "/"}}]), "tmp is there already"),
        (spec(volumes=[TOKEN]), "a service account's token is never mounted"),
        (spec(automountServiceAccountToken=True), "spec.automountServiceAccountToken"),
        (spec(hostNetwork=True), "spec.hostNetwork"),
        (spec(restartPolicy="Never"), "spec.restartPolicy"),
        (spec(terminationGracePeriodSeconds=1), "terminationGracePeriodSeconds"),
        (spec(initContainers=[]), "spec.initContainers"),
        (spec(containers=[{"name": "sidecar", "image": "x"}]), "only one container can be added to, by its name: vllm"),
        (spec(containers=[{"name": "vllm"}, {"name": "vllm"}]), "containers[1]: only one container"),
        (spec(tolerations="all"), "tolerations: a list or a map is wanted"),
        (spec(hostAliases={"ip": "10.0.0.1"}), "hostAliases: a list is wanted"),
        (spec(containers=[{"name": "vllm", "env": {"name": False}}]), "env: a list is wanted"),
        (spec(imagePullSecrets={"name": "a"}), "imagePullSecrets: a list is wanted"),
        (spec(imagePullSecrets=["a"]), "imagePullSecrets[0]: an object is wanted"),
        ({"metadata": {"labels": {"toolorchestra.dev/pool": "other"}}}, "labels[toolorchestra.dev/pool]"),
        ({"metadata": {"labels": {"app.kubernetes.io/part-of": "me"}}}, "labels[app.kubernetes.io/part-of]"),
        ({"metadata": {"name": "x"}}, "podTemplate.metadata.name"),
        ({"spec": []}, "podTemplate.spec: an object is wanted"),
        ({"kind": "Pod"}, "podTemplate.kind"),
    ],
)
def test_what_may_not(overlay: Any, said: str) -> None:
    found = overlaid(TEMPLATE, overlay, container="vllm")
    assert isinstance(found, Rejected)
    assert said in str(found)


@pytest.mark.parametrize(
    ("overlay", "path", "trusted"),
    [
        (spec(volumes=[{"name": "r", "hostPath": {"path": "/"}}]), "spec.volumes", True),
        (spec(volumes=[{"name": "r", "iscsi": {}}]), "spec.volumes", True),
        (spec(hostNetwork=True), "spec.hostNetwork", True),
        (spec(hostPID=True), "spec.hostPID", True),
        (spec(hostIPC=True), "spec.hostIPC", True),
        (spec(securityContext={"seLinuxOptions": {"type": "spc_t"}}), "spec.securityContext.seLinuxOptions", True),
        (main(securityContext={"seLinuxOptions": {"user": "root"}}), "securityContext.seLinuxOptions", True),
        (main(securityContext={"capabilities": {"add": ["IPC_LOCK"]}}), "capabilities.add[0]", True),
        (main(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}), "capabilities.add[0]", True),
        (main(securityContext={"privileged": True}), "securityContext.privileged", True),
        (
            {"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/vllm": "unconfined"}}},
            "metadata.annotations[container.apparmor.security.beta.kubernetes.io/vllm]",
            True,
        ),
        (spec(volumes=[TOKEN]), "spec.volumes", False),
        (spec(securityContext={"runAsUser": 0}), "runAsUser", False),
        (main(command=["sh"]), "command", False),
    ],
)
def test_what_weakens_a_pod_needs_a_trusted_namespace_and_nothing_else_is_trusted(
    overlay: Any, path: str, trusted: bool
) -> None:
    found = overlaid(TEMPLATE, overlay, container="vllm")
    assert isinstance(found, Rejected)
    assert path in str(found)
    assert isinstance(overlaid(TEMPLATE, overlay, container="vllm", trusted=True), Rejected) != trusted


@pytest.mark.parametrize("kind", [one for one in VOLUME_TYPES if one != "projected"])
def test_volumes_that_stay_within_the_cluster_are_added(kind: str) -> None:
    assert {"name": "v", kind: {}} in merged(spec(volumes=[{"name": "v", kind: {}}]))["spec"]["volumes"]


def test_a_privileged_container_may_get_privileges_or_the_api_server_refuses_it() -> None:
    overlay = main(securityContext={"privileged": True})
    found = overlaid(TEMPLATE, overlay, container="vllm", trusted=True)
    assert not isinstance(found, Rejected)
    assert "allowPrivilegeEscalation" not in found["spec"]["containers"][0]["securityContext"]
    assert TEMPLATE["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize(
    ("overlay", "said"),
    [
        (
            spec(volumes=[{"name": "a", "projected": "abc"}]),
            "podTemplate.spec.volumes[0].projected: an object is wanted",
        ),
        (spec(volumes=[{"name": "a", "projected": {"sources": 5}}]), "projected.sources: a list is wanted"),
        (spec(volumes=[{"name": "a", "emptyDir": {"sizeLimit": "x"}}]), "sizeLimit: a quantity such as"),
        (spec(volumes=[{"name": "a", "emptyDirs": {}}]), "volumes[0].emptyDirs: there is no such field"),
        (spec(nodeSelector=["a"]), "nodeSelector: a map is wanted"),
        (spec(nodeSelector={"a": 1}), "nodeSelector[a]: a string is wanted"),
        (spec(hostAliases=[None]), "hostAliases[0]: it is empty"),
        (spec(hostNetwork="yes"), "hostNetwork: a boolean is wanted"),
        (spec(securityContext={"fsGroup": True}), "fsGroup: an integer is wanted"),
    ],
)
def test_what_no_api_server_reads_is_told_with_its_path(overlay: Any, said: str) -> None:
    assert any(said in one for one in shape_mistakes(overlay, schemas(), path="podTemplate"))


@pytest.mark.parametrize(
    ("main_claims", "used", "expected"),
    [(None, True, [{"name": "g"}]), ([{"name": "g", "request": "a"}], True, [{"name": "g", "request": "a"}])],
)
def test_the_claims_of_a_pod_are_its_main_containers(main_claims: Any, used: bool, expected: Any) -> None:
    overlay = main(**({"resources": {"claims": main_claims}} if main_claims else {}))
    overlay["spec"]["resourceClaims"] = [{"name": "g"}]
    found = with_claims(merged(overlay), container="vllm", used=used)
    assert found["spec"]["containers"][0]["resources"] == {"claims": expected, "limits": {"nvidia.com/gpu": 1}}
    assert "resourceClaims" not in with_claims(merged(overlay), container="vllm", used=False)["spec"]


def test_every_mistake_is_told_at_once() -> None:
    found = overlaid(TEMPLATE, spec(hostPID=True, hostIPC=True), container="vllm", path="spec.vllm.podTemplate")
    assert isinstance(found, Rejected)
    paths = [message.split(": ")[0] for message in found.messages]
    assert paths == ["spec.vllm.podTemplate.spec.hostPID", "spec.vllm.podTemplate.spec.hostIPC"]


def test_one_that_is_too_long_is_told_so() -> None:
    """Each look merges it, and an annotation remembers it."""
    longest = {"metadata": {"annotations": {"note": "x" * (MOST_BYTES - 43)}}}
    assert len(json.dumps(longest)) == MOST_BYTES
    assert shape_mistakes(longest, schemas(), path="spec.podTemplate") == ()
    longer = {"metadata": {"annotations": {"note": "x" * (MOST_BYTES - 42)}}}
    (said,) = shape_mistakes(longer, schemas(), path="spec.podTemplate")
    assert said == "spec.podTemplate: it has 65,537 bytes as JSON, and at most 65,536 are taken"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("of", ["tolerations", "hostAliases"])
def test_a_list_as_long_as_a_spec_has_room_for_is_merged_in_a_moment(of: str) -> None:
    """All of the operator waits for it: a quadratic merge takes minutes."""
    items = [{"key": f"a{i}"} if of == "tolerations" else {"ip": f"a{i}"} for i in range(20_000)]
    assert len(merged(spec(**{of: items}))["spec"][of]) == len(items)


def test_what_has_no_value_is_not_written() -> None:
    overlay = {"metadata": {"annotations": {"a": None, "b": "c"}}, "spec": {"affinity": {"podAffinity": None}}}
    found = merged(overlay)
    assert found["metadata"]["annotations"] == {"b": "c", "toolorchestra.dev/a": "1"}
    assert found["spec"]["affinity"] == {}


def test_no_overlay_changes_nothing_and_the_template_is_never_written_to() -> None:
    before = copy.deepcopy(TEMPLATE)
    assert merged(None) == merged({}) == merged({"spec": {}}) == TEMPLATE
    merged(main(env=[{"name": "A", "value": "1"}]))
    assert before == TEMPLATE


_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)
_fields = st.dictionaries(
    st.sampled_from(["metadata", "spec", "labels", "env", "containers", "volumes", "securityContext", "name"]), _values
)


@given(
    st.one_of(
        _fields,
        st.builds(lambda inner: {"spec": inner}, _fields),
        st.builds(lambda inner: spec(containers=[{**inner, "name": "vllm"}]), _fields),
    )
)
def test_whatever_it_says_it_is_merged_or_refused_and_what_the_operator_set_stays(overlay: dict[str, Any]) -> None:
    found = overlaid(TEMPLATE, overlay, container="vllm")
    if not isinstance(found, Rejected):
        (own,) = TEMPLATE["spec"]["containers"]
        (container,) = found["spec"]["containers"]
        for field in ("image", "command", "name"):
            assert container[field] == own[field]
        assert container["env"][: len(own["env"])] == own["env"]
        assert found["spec"]["automountServiceAccountToken"] is False


def test_the_table_can_be_printed() -> None:
    table = {path: how for path, how, _ in merge_table()}
    assert table["spec.tolerations"] == "add"
    assert table["spec.containers[main container].env"] == "add by name"
    assert "spec.containers[main container].image" not in table
