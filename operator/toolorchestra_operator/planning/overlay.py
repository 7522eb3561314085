"""The merge of a `podTemplate` overlay into a pod template of the operator, and what an overlay may contain.

Invariants
- Pure. What the operator set is kept: an overlay adds, and replaces only what the merge table calls `replace`.
- Closed: a field that is not in the table is refused with its path, so that an overlay takes effect completely or not
  at all.
- The table has no field that could break a guarantee of the operator (command, image, ports, probes, the service
  account's token, root).
- What gives a pod access beyond itself (the node's files, network and processes, capabilities) goes beyond the
  restricted pod security standard. It is refused, unless the operator's settings trust the namespace.
- An overlay is unchecked input: whatever JSON it is, it is merged or refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from toolorchestra_operator.kubernetes.manifest import Manifest, part
from toolorchestra_operator.kubernetes.openapi import Schemas
from toolorchestra_operator.kubernetes.shape import misshapen


@dataclass(frozen=True)
class Rejected:
    """The overlay is refused: every error, with its path."""

    messages: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(self.messages)


@dataclass(frozen=True)
class Merge:
    """How one field is merged. `keys` identify a list's items; `may` checks one value and returns what is wrong."""

    how: str
    """add: new keys, or new items; fields: by the sub-table; replace: by the overlay's value."""
    keys: tuple[str, ...] = ()
    fields: Mapping[str, Merge] = field(default_factory=dict[str, "Merge"])
    may: Callable[[Any], str] = lambda value: ""
    weakens: Callable[[Any], str] = lambda value: ""
    """Returns what is refused in a value if the namespace is not trusted."""

    @property
    def limit(self) -> str:
        """What `may` refuses, as text; empty: nothing."""
        return (self.may.__doc__ or "").rstrip(".")

    @property
    def trust(self) -> str:
        """What needs a trusted namespace, as text; empty: nothing."""
        return (self.weakens.__doc__ or "").rstrip(".")


RESERVED_LABELS: Final = ("app.kubernetes.io/", "toolorchestra.dev/", "kueue.x-k8s.io/")
RESERVED_VARIABLES: Final = ("VLLM_API_KEY", "VLLM_SERVER_DEV_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE")
"""Environment variables that control access; an overlay may not even add them."""
MOST_BYTES: Final = 65_536
"""Most bytes of an overlay, as JSON."""


VOLUME_TYPES: Final = (
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
)
"""Volume types of the restricted standard, and images. Others reach the node, or mount network storage directly."""
WEAKENING_ANNOTATIONS: Final = (
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
)
"""Prefixes of the annotations that make older kubelets run a container without a profile."""
_CAPABILITIES: Final = ("NET_BIND_SERVICE",)
_SELINUX_TYPES: Final = ("container_t", "container_init_t", "container_kvm_t", "container_engine_t")


def _no_token(volume: Any) -> str:
    """no service account's token."""
    sources = part(volume, "projected").get("sources")
    if any("serviceAccountToken" in source for source in _objects(sources)):
        return "a service account's token is never mounted into these pods"
    return ""


def _kinds(volume: Any) -> str:
    """types beyond the restricted pod security standard, such as `hostPath`."""
    kinds = [kind for kind in volume if kind != "name" and kind not in VOLUME_TYPES]
    return f"a volume of type {kinds[0]} {_BEYOND}" if kinds else ""


def _not_reserved(variable: Any) -> str:
    return f"{variable['name']} is the operator's" if variable.get("name") in RESERVED_VARIABLES else ""


def _not_root(user: Any) -> str:
    """above 0."""
    whole = isinstance(user, int) and not isinstance(user, bool)
    return "" if whole and user > 0 else "a number above 0 is wanted: these pods do not run as root"


def _only_true(value: Any) -> str:
    """`true` only."""
    return "" if value is True else "it can only be switched on"


def _any(value: Any) -> str:
    """`true`."""
    return "" if value is False else f"it {_BEYOND}"


def _capability(added: Any) -> str:
    """all but `NET_BIND_SERVICE`."""
    return "" if added in _CAPABILITIES else f"the capability {added} {_BEYOND}"


def _selinux(options: Any) -> str:
    """users, roles, and types that are no container's."""
    plain = isinstance(options, Mapping) and not options.get("user") and not options.get("role")
    if plain and options.get("type") in (None, "", *_SELINUX_TYPES):
        return ""
    return f"a user, a role, or a type that is no container's {_BEYOND}"


def _annotations(name: Any) -> str:
    """those of older kubelets about AppArmor and seccomp."""
    return f"it {_BEYOND}" if str(name).startswith(WEAKENING_ANNOTATIONS) else ""


_BEYOND: Final = (
    "weakens the pod (it is beyond the restricted pod security standard): remove it, or add this namespace to "
    "the chart's privilegedNamespaces"
)
_TRUSTED: Final = Merge("replace", weakens=_any)
_IDENTITY: Final = {
    "runAsUser": Merge("replace", may=_not_root),
    "runAsGroup": Merge("replace", may=_not_root),
    "runAsNonRoot": Merge("replace", may=_only_true),
    "seLinuxOptions": Merge("replace", weakens=_selinux),
}
_CONTAINER: Final = {
    "name": Merge("replace"),
    "env": Merge("add", ("name",), may=_not_reserved),
    "envFrom": Merge("add"),
    "volumeMounts": Merge("add", ("mountPath",)),
    "volumeDevices": Merge("add", ("devicePath",)),
    "resources": Merge("fields", fields={"claims": Merge("add", ("name", "request"))}),
    "securityContext": Merge(
        "fields",
        fields={
            **_IDENTITY,
            "capabilities": Merge("fields", fields={"add": Merge("add", weakens=_capability)}),
            "privileged": _TRUSTED,
            "readOnlyRootFilesystem": Merge("replace", may=_only_true),
        },
    ),
}
TABLE: Final = Merge(
    "fields",
    fields={
        "metadata": Merge("fields", fields={"labels": Merge("add"), "annotations": Merge("add", weakens=_annotations)}),
        "spec": Merge(
            "fields",
            fields={
                "tolerations": Merge("add"),
                "nodeSelector": Merge("add"),
                "affinity": Merge("replace"),
                "topologySpreadConstraints": Merge("add", ("topologyKey", "whenUnsatisfiable")),
                "runtimeClassName": Merge("replace"),
                "schedulerName": Merge("replace"),
                "priorityClassName": Merge("replace"),
                "preemptionPolicy": Merge("replace"),
                "serviceAccountName": Merge("replace"),
                "resourceClaims": Merge("add", ("name",)),
                "imagePullSecrets": Merge("add", ("name",)),
                "hostAliases": Merge("add", ("ip",)),
                "dnsPolicy": Merge("replace"),
                "dnsConfig": Merge("replace"),
                "hostNetwork": _TRUSTED,
                "hostPID": _TRUSTED,
                "hostIPC": _TRUSTED,
                "volumes": Merge("add", ("name",), may=_no_token, weakens=_kinds),
                "securityContext": Merge(
                    "fields",
                    fields={
                        **_IDENTITY,
                        "fsGroup": Merge("replace", may=_not_root),
                        "fsGroupChangePolicy": Merge("replace"),
                        "supplementalGroups": Merge("add"),
                        "supplementalGroupsPolicy": Merge("replace"),
                    },
                ),
                "containers": Merge("fields", ("name",), fields=_CONTAINER),
            },
        ),
    },
)
"""The merge table; the table in the docs is made from it (`merge_table`). Of the containers, only the main one."""


def overlaid(
    template: Manifest, overlay: Manifest | None, *, container: str, path: str = "podTemplate", trusted: bool = False
) -> dict[str, Any] | Rejected:
    """Return `template` with `overlay` merged in; `container` names its main container, `path` is the overlay's.

    `trusted`: the namespace may weaken its pods.
    """
    walk = _Walk(container=container, trusted=trusted)
    merged = walk.struct(template, {} if overlay is None else _without_nulls(overlay), TABLE.fields, path)
    return Rejected(tuple(walk.mistakes)) if walk.mistakes else _privileged(merged)


def shape_mistakes(overlay: Manifest | None, schemas: Schemas, *, path: str) -> tuple[str, ...]:
    """Return the errors of an overlay against the API server's schema of pod templates: wrong types and unknown fields.
    An overlay that is too long is an error too: every reconcile merges and compares it, and an annotation stores it (of
    256 KiB at most for all annotations).

    `overlaid` refuses the operator's own fields anyway, with a clearer message.
    """
    if (size := len(json.dumps(overlay).encode())) > MOST_BYTES:
        return (f"{path}: it has {size:,} bytes as JSON, and at most {MOST_BYTES:,} are taken",)
    template = schemas.schema("apps/v1", "Deployment").child("spec").child("template")
    return tuple(misshapen(overlay, template, path))


def claims_devices(overlay: Any) -> bool:
    """Return whether the overlay, which may be any JSON, claims devices."""
    spec = part(overlay, "spec")
    return bool(spec.get("resourceClaims")) or any(
        part(one, "resources").get("claims") for one in _objects(spec.get("containers"))
    )


def with_claims(template: dict[str, Any], *, container: str, used: bool) -> dict[str, Any]:
    """Give the pod's claims to its main container, which may name some of them itself; `used` False: remove them.

    One overlay serves several kinds of pods, and not all of them compute: a device that the head held would be unused.
    """
    spec = dict(template["spec"])
    if not (claims := spec.get("resourceClaims")):
        return template
    if not used:
        del spec["resourceClaims"]
        return {**template, "spec": spec}
    main = next(one for one in spec["containers"] if one["name"] == container)
    resources = {"claims": [{"name": one["name"]} for one in claims], **(main.get("resources") or {})}
    spec["containers"] = [{**one, "resources": resources} if one is main else one for one in spec["containers"]]
    return {**template, "spec": spec}


def _privileged(template: dict[str, Any]) -> dict[str, Any]:
    """Allow privilege escalation in a privileged container; the API server refuses it otherwise."""
    for container in template["spec"]["containers"]:
        if part(container, "securityContext").get("privileged"):
            container["securityContext"].pop("allowPrivilegeEscalation", None)
    return template


def merge_table() -> tuple[tuple[str, str, Merge], ...]:
    """Return (path, how, the rule) of everything that an overlay may set."""
    return tuple(_rows(TABLE.fields, ""))


def _rows(fields: Mapping[str, Merge], path: str) -> Iterator[tuple[str, str, Merge]]:
    for name, merge in fields.items():
        here = f"{path}.{name}".lstrip(".") + ("[main container]" if merge.fields and merge.keys else "")
        if merge.fields:
            yield from _rows(merge.fields, here)
        elif not (name == "name" and fields is _CONTAINER):
            by = f" by {', '.join(merge.keys)}" if merge.keys else ""
            yield here, f"{merge.how}{by}", merge


@dataclass
class _Walk:
    """One merge, which collects the errors."""

    container: str
    trusted: bool
    mistakes: list[str] = field(default_factory=list[str])

    def wrong(self, path: str, message: str) -> None:
        self.mistakes.append(f"{path}: {message}")

    def refused(self, merge: Merge, value: Any) -> str:
        """Return what is wrong with one value, or with an item or a key of one; empty: nothing."""
        return merge.may(value) or ("" if self.trusted else merge.weakens(value))

    def struct(self, base: Manifest, overlay: Any, fields: Mapping[str, Merge], path: str) -> dict[str, Any]:
        merged = dict(base)
        if not isinstance(overlay, Mapping):
            self.wrong(path, "an object is wanted")
            return merged
        for name, value in overlay.items():
            here = f"{path}.{name}"
            if name not in fields:
                may = ", ".join(known for known in fields if known != "name")
                self.wrong(here, f"the operator sets this field, or nobody can; fields that can be set here: {may}")
                continue
            merged[name] = self.field(base.get(name), value, fields[name], here)
        return merged

    def field(self, base: Any, value: Any, merge: Merge, path: str) -> Any:
        match merge.how:
            case "fields" if merge.keys:
                return self.main_container(base or [], value, merge, path)
            case "fields":
                return self.struct(base or {}, value, merge.fields, path)
            case "add" if isinstance(value, Mapping) and merge.keys:
                self.wrong(path, "a list is wanted")
                return base
            case "add" if isinstance(value, Mapping):
                return self.added_keys(base or {}, value, merge, path)
            case "add" if isinstance(value, list):
                return self.added_items(base or [], value, merge, path)
            case "add":
                self.wrong(path, "a list or a map is wanted")
                return base
        if said := self.refused(merge, value):
            self.wrong(path, said)
        return value

    def added_keys(self, base: Any, added: Mapping[str, Any], merge: Merge, path: str) -> Any:
        if not isinstance(base, Mapping):
            self.wrong(path, "a list is wanted")
            return base
        for key, value in added.items():
            reserved = key in base or (path.endswith((".labels", ".annotations")) and key.startswith(RESERVED_LABELS))
            if reserved and base.get(key) != value:
                self.wrong(f"{path}[{key}]", "the operator sets this")
            elif said := self.refused(merge, key):
                self.wrong(f"{path}[{key}]", said)
        return {**added, **base}

    def added_items(self, base: Any, added: list[Any], merge: Merge, path: str) -> Any:
        if not isinstance(base, list):
            self.wrong(path, "a map is wanted")
            return base
        merged = list(base)
        there = {_text(item, merge) for item in base}  # texts are fast to look up: a list may have 100,000 items
        for index, item in enumerate(added):
            here = f"{path}[{index}]"
            if merge.keys and not isinstance(item, Mapping):
                self.wrong(here, "an object is wanted")
            elif merge.keys and not item.get(merge.keys[0]):
                self.wrong(here, f"{merge.keys[0]} is wanted")
            elif merge.keys and _text(item, merge) in there:
                self.wrong(here, f"{item[merge.keys[0]]} is there already, set by the operator or twice")
            elif said := self.refused(merge, item):
                self.wrong(here, said)
            elif (text := _text(item, merge)) not in there:
                merged.append(item)
                there.add(text)
        return merged

    def main_container(self, base: list[Any], added: Any, merge: Merge, path: str) -> list[Any]:
        if not isinstance(added, list) or not all(isinstance(one, Mapping) for one in added):
            self.wrong(path, "a list of objects is wanted")
            return base
        merged = list(base)
        for index, one in enumerate(added):
            if one.get("name") != self.container or index:
                self.wrong(f"{path}[{index}]", f"only one container can be added to, by its name: {self.container}")
                continue
            at = next(place for place, own in enumerate(base) if own["name"] == self.container)
            merged[at] = self.struct(base[at], one, merge.fields, f"{path}[{index}]")
        return merged


def _without_nulls(value: Any) -> Any:
    """Remove fields without a value: the API server removes them too, so that they would always be a difference."""
    if isinstance(value, Mapping):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _text(item: Any, merge: Merge) -> str:
    """Return the text that identifies an item of a list."""
    keyed = merge.keys and isinstance(item, Mapping)
    return json.dumps([item.get(key) for key in merge.keys] if keyed else item, sort_keys=True)
