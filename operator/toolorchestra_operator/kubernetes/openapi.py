"""The shape of objects, from the API server's OpenAPI v3 documents, reduced to what a comparison needs.

Invariants
- A `Schemas` is a value: built once from documents, never changed; if the server's documents change, a new one is
  built.
- A schema follows server-side apply (structured-merge-diff): lists are atomic unless `x-kubernetes-list-type` or a
  merge strategy says otherwise, maps and structs are granular unless `x-kubernetes-map-type: atomic`.
- What a document does not describe (free-form values, recursive types) is `UNTYPED`: maps granular, lists atomic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

ListType = Literal["atomic", "map", "set"]
NO_DEFAULT: Final = object()

_MERGING = ("merge", "merge,retainKeys")
_CORE: Final = "io.k8s.api."

UNDECLARED_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "networking.v1.NetworkPolicyPort": {"protocol": "TCP"},
    "core.v1.ObjectFieldSelector": {"apiVersion": "v1"},
    "core.v1.ServiceAccountTokenProjection": {"expirationSeconds": 3600},
    "batch.v1.PodFailurePolicyOnPodConditionsPattern": {"status": "True"},
}
"""Defaults that the server fills in but does not publish in its OpenAPI, inside values that are compared as a whole
(atomic lists and maps). Elsewhere such a field belongs to nobody and is not compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Schema:
    """One node of a schema. A struct has `fields`, a map `values`, a list `items`; a scalar has none of them."""

    fields: Mapping[str, Schema] = field(default_factory=dict)
    values: Schema | None = None
    items: Schema | None = None
    list_type: ListType = "atomic"
    keys: tuple[str, ...] = ()
    """Fields that identify the items of a list, if `list_type` is map."""
    atomic: bool = False
    """True: a map or struct that has one owner and is compared as a whole."""
    quantity: bool = False
    default: Any = NO_DEFAULT
    type: str = ""
    """The JSON type of a scalar; "": a node with fields, values or items, or one that may be anything."""

    def child(self, name: str) -> Schema:
        """Return the schema of a field, or of a map's value."""
        return self.fields.get(name) or self.values or UNTYPED

    @property
    def item(self) -> Schema:
        """The schema of a list's items."""
        return self.items or UNTYPED

    @property
    def is_struct(self) -> bool:
        """Whether {} differs from an absent value."""
        return bool(self.fields)


UNTYPED: Final = Schema()


class Schemas:
    """Schemas by apiVersion and kind."""

    def __init__(self, known: Mapping[tuple[str, str], Schema]) -> None:
        self._known = dict(known)

    @classmethod
    def of(cls, documents: Iterable[Mapping[str, Any]], *, kinds: Iterable[tuple[str, str]] | None = None) -> Schemas:
        """Build schemas of OpenAPI v3 documents. `kinds` (apiVersion, kind): only these, to save memory; None: all."""
        wanted = None if kinds is None else frozenset(kinds)
        known: dict[tuple[str, str], Schema] = {}
        for document in documents:
            components = document.get("components", {}).get("schemas", {})
            builder = _Builder(components)
            for name, raw in components.items():
                for gvk in raw.get("x-kubernetes-group-version-kind", ()):
                    about = (api_version(gvk["group"], gvk["version"]), gvk["kind"])
                    if wanted is None or about in wanted:
                        known[about] = builder.component(name)
        return cls(known)

    def __contains__(self, about: tuple[str, str]) -> bool:
        return about in self._known

    def schema(self, api_version: str, kind: str) -> Schema:
        """Return a kind's schema. LookupError: the server does not serve it, or its documents were not requested."""
        try:
            return self._known[api_version, kind]
        except KeyError:
            raise LookupError(f"no OpenAPI schema of {api_version} {kind}") from None


def api_version(group: str, version: str) -> str:
    """Return the API version: `apps`, `v1` → `apps/v1`; the core group has no name."""
    return f"{group}/{version}" if group else version


def with_defaults(value: Any, schema: Schema) -> Any:
    """Return `value` with every default of the schema filled in, at every depth, as the server does on a write."""
    if isinstance(value, Mapping):
        filled = {key: with_defaults(inner, schema.child(key)) for key, inner in value.items()}
        for name, child in schema.fields.items():
            if name not in filled and child.default is not NO_DEFAULT:
                filled[name] = with_defaults(child.default, child)
        return filled
    if isinstance(value, list | tuple):
        return [with_defaults(inner, schema.item) for inner in value]
    return value


class _Builder:
    """Builds the schemas of one document's components, each component once."""

    def __init__(self, components: Mapping[str, Mapping[str, Any]]) -> None:
        self._components = components
        self._built: dict[str, Schema] = {}

    def component(self, name: str) -> Schema:
        if name not in self._built:
            self._built[name] = UNTYPED  # what a recursive type finds inside itself
            raw = self._components.get(name, {})
            undeclared = UNDECLARED_DEFAULTS.get(name.removeprefix(_CORE), {}) if name.startswith(_CORE) else {}
            self._built[name] = self._schema(raw, undeclared) if not name.endswith(".Quantity") else _QUANTITY
        return self._built[name]

    def _schema(self, raw: Mapping[str, Any], undeclared: Mapping[str, Any]) -> Schema:
        refs = [part for part in (raw, *raw.get("allOf", ())) if "$ref" in part]
        if refs:
            return self._referred(self.component(refs[0]["$ref"].rsplit("/", 1)[-1]), raw)
        additional, items = raw.get("additionalProperties"), raw.get("items")
        list_type, keys = _list_type(raw)
        return Schema(
            fields={
                name: self._schema({**inner, "default": undeclared[name]} if name in undeclared else inner, {})
                for name, inner in raw.get("properties", {}).items()
            },
            values=self._schema(additional, {}) if isinstance(additional, Mapping) else None,
            items=self._schema(items, {}) if isinstance(items, Mapping) else None,
            list_type=list_type,
            keys=keys,
            atomic=raw.get("x-kubernetes-map-type") == "atomic",
            quantity=_is_quantity(raw),
            default=raw.get("default", NO_DEFAULT),
            type=raw["type"] if raw.get("type") in _SCALARS else "",
        )

    @staticmethod
    def _referred(target: Schema, raw: Mapping[str, Any]) -> Schema:
        """Return the schema of a reference: its target, with what is declared beside the reference."""
        return Schema(
            fields=target.fields,
            values=target.values,
            items=target.items,
            list_type=target.list_type,
            keys=target.keys,
            atomic=raw.get("x-kubernetes-map-type", "atomic" if target.atomic else "granular") == "atomic",
            quantity=target.quantity,
            # A quantity's `{}` is how an empty Go struct is published; the server never fills in such a default.
            default=NO_DEFAULT if target.quantity else raw.get("default", target.default),
            type=target.type,
        )


_SCALARS: Final = ("boolean", "integer", "number", "string")
_QUANTITY: Final = Schema(quantity=True)


def _is_quantity(raw: Mapping[str, Any]) -> bool:
    """Return whether a schema is a quantity. Custom resources mark one by its pattern; a port or a percentage
    (int-or-string) has none."""
    signed_number = str(raw.get("pattern", "")).startswith("^(\\+|-)?((")
    return raw.get("format") == "quantity" or bool(raw.get("x-kubernetes-int-or-string") and signed_number)


def _list_type(raw: Mapping[str, Any]) -> tuple[ListType, tuple[str, ...]]:
    """Return the list type and keys, as kube-openapi's schemaconv: the list type first, then the older merge
    strategy."""
    match raw.get("x-kubernetes-list-type"):
        case "map":
            return "map", tuple(raw.get("x-kubernetes-list-map-keys", ()))
        case "set":
            return "set", ()
        case "atomic":
            return "atomic", ()
    if raw.get("x-kubernetes-patch-strategy") not in _MERGING:
        return "atomic", ()
    key = raw.get("x-kubernetes-patch-merge-key")
    return ("map", (key,)) if key else ("set", ())
