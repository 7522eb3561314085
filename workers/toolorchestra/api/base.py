"""The base of every resource: the frozen, closed base model, and reference types that both kinds share.

Invariants
- YAML is camelCase, attributes are snake_case; `USD` and `URI` stay upper case in YAML (`maxSpendUSD`, `exportURI`).
- Unknown keys are refused. Absent means unset (None). A field with a default has it in the schema too, and every
  optional parent has `default: {}`, so that the API server and these models fill in the same values.
- Rules over several fields are declared on the model that holds them (`toolorchestra.api.rules`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from toolorchestra.api.rules import rule, ruled
from toolorchestra.api.scalars import AcceleratorName, Key, LabelValue, ObjectName, Quantity

GROUP = "toolorchestra.dev"
VERSION = "v1alpha1"
CATEGORY = "toolorchestra"
API_VERSION = f"{GROUP}/{VERSION}"
ApiVersion = Literal["toolorchestra.dev/v1alpha1"]


def yaml_name(attribute: str) -> str:
    """Return an attribute's YAML key: `max_spend_usd` → `maxSpendUSD`, `export_uri` → `exportURI`, `uri` → `uri`."""
    return re.sub(r"(?<=[a-z])(Usd|Uri)(?![a-z])", lambda match: match.group().upper(), to_camel(attribute))


class Model(BaseModel):
    """Base of all models: frozen, closed, read by YAML name. Python code may also construct by attribute name."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=yaml_name,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
    )


OPEN = ConfigDict(extra="ignore")
"""For what only the operator writes: unknown fields of another version of the operator are ignored."""

PARENT: dict[str, Any] = {"default": {}}
"""Schema of an optional parent: the default is an empty object, to which its fields' own defaults apply."""

LIST_MAP: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
"""Schema of a list of objects with the key `name`; a repeated name is refused."""

LIST_SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}
"""Schema of a list of distinct scalars."""


class SecretKeyRef(Model):
    """A key of a Secret in the same namespace. On one machine an environment variable; an error names it if missing."""

    name: ObjectName
    """Name of the Secret."""
    key: Key
    """Key in the Secret."""

    @property
    def variable(self) -> str:
        """Environment variable that holds the value in a worker, and replaces the Secret on one machine."""
        return "SECRET_" + re.sub(r"[^A-Z0-9]", "_", f"{self.name}_{self.key}".upper())


class ConfigMapKeyRef(Model):
    """A key of a ConfigMap in the same namespace."""

    name: ObjectName
    """Name of the ConfigMap."""
    key: Key
    """Key in the ConfigMap."""


def _whole_numbers(s: Mapping[str, Any]) -> bool:
    return all(
        "/" not in name or str(n).isdigit() for amounts in (s["limits"], s["requests"]) for name, n in amounts.items()
    )


class Resources(Model):
    """Compute resources of a container, as in a pod."""

    model_config = ruled(
        rule(
            "[self.limits, self.requests].all(amounts, amounts.all(name,"
            " !name.contains('/') || string(amounts[name]).matches('^[0-9]+$')))",
            "a resource with a slash in its name, such as a GPU, must be a whole number without a unit",
            check=_whole_numbers,
            defaulted=("limits", "requests"),
        )
    )

    limits: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(default_factory=dict, json_schema_extra=PARENT)
    """Upper limits by resource name, such as `nvidia.com/gpu: 1`."""
    requests: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(
        default_factory=dict, json_schema_extra=PARENT
    )
    """Requests by resource name, such as `cpu: 4`."""


class ComputeResources(Resources):
    """Resources of a container that computes on an accelerator, such as a GPU, or on the CPU."""

    accelerator: AcceleratorName | None = None
    """Accelerator: a name in limits, Claim (of resourceClaims) or None (the CPU); absent: a known name in limits."""


class LabelSelectorRequirement(Model):
    """One condition on a label."""

    key: Annotated[str, Field(min_length=1, max_length=317)]
    """Label key."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How to compare the label with `values`."""
    values: Annotated[tuple[LabelValue, ...], Field(max_length=32)] = ()
    """Values for In and NotIn; empty for the others."""


class LabelSelector(Model):
    """Selects objects by their labels. All conditions must hold; an empty selector matches every object."""

    match_labels: Annotated[dict[str, LabelValue], Field(max_length=16)] = Field(
        default_factory=dict, json_schema_extra=PARENT
    )
    """Labels and the values that they must have."""
    match_expressions: Annotated[tuple[LabelSelectorRequirement, ...], Field(max_length=16)] = ()
    """Further conditions."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether an object with these labels is selected."""
        if any(labels.get(key) != value for key, value in self.match_labels.items()):
            return False
        for requirement in self.match_expressions:
            value = labels.get(requirement.key)
            match requirement.operator:
                case "In":
                    held = value in requirement.values
                case "NotIn":
                    held = value not in requirement.values
                case "Exists":
                    held = value is not None
                case "DoesNotExist":
                    held = value is None
            if not held:
                return False
        return True
