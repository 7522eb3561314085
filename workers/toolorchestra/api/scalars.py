"""Scalar types of the resources. Each has one Python type, one schema and one error message, from one pattern.

Invariant: no value is converted to another type. Money, ratios and rates are decimal strings in YAML (no exponent) and
`Decimal` in Python; durations and counts are strict integers; there is no float.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, Strict
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from toolorchestra.plugins import MOST_CHARACTERS, PATTERN


def plain(value: Decimal) -> str:
    """Return a decimal without exponent, as in YAML and in the API."""
    return format(value, "f")


@dataclass(frozen=True)
class DecimalText:
    """`Annotated[Decimal, DecimalText(…)]`: a decimal string of that pattern. `want` describes it in messages."""

    pattern: str
    want: str
    max_length: int

    def read(self, value: Any) -> Decimal:
        if isinstance(value, Decimal):
            value = plain(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise PydanticCustomError(
                "decimal_text",
                '{want}, written as a string: put it in quotes ("{value}")',
                {"want": self.want, "value": plain(Decimal(str(value)))},
            )
        if not isinstance(value, str):
            raise PydanticCustomError("decimal_text", "{want}", {"want": self.want})
        if len(value) > self.max_length or not re.fullmatch(self.pattern, value):
            raise PydanticCustomError("decimal_text", '{want}, got "{value}"', {"want": self.want, "value": value})
        return Decimal(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                plain, return_schema=core_schema.str_schema(), when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": self.pattern, "maxLength": self.max_length}


@dataclass(frozen=True)
class PatternText:
    """`Annotated[str, PatternText(…)]`: a string of that pattern. `want` describes it in messages."""

    pattern: str
    want: str
    max_length: int

    def read(self, value: Any) -> str:
        if not isinstance(value, str):
            raise PydanticCustomError("pattern_text", "{want}, got {value}", {"want": self.want, "value": repr(value)})
        if len(value) > self.max_length or not re.fullmatch(self.pattern, value):
            raise PydanticCustomError("pattern_text", '{want}, got "{value}"', {"want": self.want, "value": value})
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read, serialization=core_schema.to_string_ser_schema())

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": self.pattern, "maxLength": self.max_length}


@dataclass(frozen=True)
class PluginText:
    """`Annotated[str, PluginText(("GDPO", …))]`: one of these names, or `package/Name` of a plug-in. Whether that is
    installed is found out where it is used: the operator has no plug-ins."""

    names: tuple[str, ...]

    def read(self, value: Any) -> str:
        if isinstance(value, str) and (value in self.names or _is_plugin_name(value)):
            return value
        near = difflib.get_close_matches(value, self.names, n=1, cutoff=0.5) if isinstance(value, str) else []
        raise PydanticCustomError(
            "plugin_text",
            "one of {names}, or package/Name of an installed plug-in, got {value}{hint}",
            {
                "names": ", ".join(self.names),
                "value": f'"{value}"' if isinstance(value, str) else repr(value),
                "hint": f"; did you mean {near[0]}?" if near else "",
            },
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read, serialization=core_schema.to_string_ser_schema())

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        pattern = "|".join((*self.names, PATTERN))
        return {"type": "string", "pattern": f"^({pattern})$", "maxLength": MOST_CHARACTERS}


def _is_plugin_name(value: str) -> bool:
    return len(value) <= MOST_CHARACTERS and re.fullmatch(PATTERN, value) is not None


@dataclass(frozen=True)
class QuantityText:
    """`Annotated[int | str, QuantityText()]`: a Kubernetes quantity, `2` as well as `"2"` or `8Gi`."""

    pattern: str = r"^([0-9]{1,18}(\.[0-9]{1,9})?|\.[0-9]{1,9})(n|u|m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$"
    max_length: int = 40

    def read(self, value: Any) -> int | str:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        if isinstance(value, str) and len(value) <= self.max_length and re.fullmatch(self.pattern, value):
            return value
        raise PydanticCustomError(
            "quantity_text", "a Kubernetes quantity such as 2, 500m or 8Gi, got {value}", {"value": repr(value)}
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "minimum": 0,
            "pattern": self.pattern,
            "maxLength": self.max_length,
        }


@dataclass(frozen=True)
class OpaqueObject:
    """`Annotated[dict[str, Any], OpaqueObject()]`: an object that another project's schema describes."""

    most_depth: int = 100
    """Most levels, so that code may walk through the object by recursion."""

    def read(self, value: dict[str, Any]) -> dict[str, Any]:
        level: list[Any] = [value]
        for _ in range(self.most_depth):
            level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
            level = [inner for inner in level if isinstance(inner, dict | list)]
            if not level:
                return value
        raise PydanticCustomError("deep_object", "nested deeper than {most} levels", {"most": self.most_depth})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.read, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


_PLAIN = r"^[0-9]{1,9}(\.[0-9]{1,12})?$"

USD = Annotated[Decimal, DecimalText(_PLAIN, 'an amount in US dollars such as "0.25"', 22)]
Number = Annotated[Decimal, DecimalText(_PLAIN, 'a number ≥ 0 such as "0.5"', 22)]
SignedNumber = Annotated[Decimal, DecimalText(r"^-?[0-9]{1,9}(\.[0-9]{1,12})?$", 'a number such as "-0.5"', 23)]
Fraction = Annotated[
    Decimal, DecimalText(r"^(0(\.[0-9]{1,12})?|1(\.0{1,12})?)$", 'a fraction from "0" to "1" such as "0.5"', 14)
]

Bool = Annotated[bool, Strict()]
Int = Annotated[int, Strict(), Field(ge=-(2**53), le=2**53)]
Count = Annotated[int, Strict(), Field(ge=1, le=1_000_000_000)]
NonNegative = Annotated[int, Strict(), Field(ge=0, le=2**53)]
Milliseconds = Annotated[int, Strict(), Field(ge=1, le=86_400_000)]
Seconds = Annotated[int, Strict(), Field(ge=1, le=31_536_000)]
SecondsOrZero = Annotated[int, Strict(), Field(ge=0, le=31_536_000)]

Name = Annotated[
    str,
    PatternText(
        r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
        "a name: at most 40 lower-case letters, digits and dashes, a letter first (DNS-1035)",
        40,
    ),
]
ObjectName = Annotated[
    str, PatternText(r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", "the name of a Kubernetes object (lower case)", 253)
]
Key = Annotated[str, PatternText(r"^[-._a-zA-Z0-9]+$", "a key: letters, digits, dash, dot and underscore", 253)]
Word = Annotated[str, PatternText(r"^[A-Za-z0-9][-_A-Za-z0-9]*$", "a word of letters, digits, - and _", 40)]
PluginName = Annotated[
    str,
    PatternText(rf"^{PATTERN}$", "package/Name of an installed plug-in, such as acme-tasks/Riddles", MOST_CHARACTERS),
]
DatasetName = Annotated[str, PatternText(r"^[A-Za-z_][A-Za-z0-9_]*$", "a dataset's name such as chain_sum", 80)]
URI = Annotated[
    str,
    PatternText(
        r"^(hf|pvc|s3|file|https?)://[^\s]+$",
        "a URI: hf://owner/name, pvc://claim/path, s3://bucket/key, https://… or file:///path",
        1024,
    ),
]
ModelURI = Annotated[
    str,
    PatternText(
        r"^(hf|pvc|s3|file)://[^\s]+$",
        "a model's URI: hf://owner/name, pvc://claim/path, s3://bucket/prefix or file:///path",
        1024,
    ),
]
URL = Annotated[str, PatternText(r"^https?://[^\s]+$", "a URL: http://… or https://…", 1024)]
_PORT = "[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
BaseURL = Annotated[
    str,
    PatternText(
        rf"^https?://([A-Za-z0-9_]([-.A-Za-z0-9_]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\])(:({_PORT}))?(/[^\s?#]*)?$",
        "the base URL of an API, without user, query and fragment, such as https://api.example/v1",
        1024,
    ),
]
NatsURL = Annotated[str, PatternText(r"^(nats|tls|wss?)://[^\s]+$", "a NATS URL such as nats://host:4222", 1024)]
LabelValue = Annotated[
    str,
    PatternText(
        r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", "a label's value: at most 63 letters, digits, -._", 63
    ),
]
AcceleratorName = Annotated[
    str,
    PatternText(
        r"^(Claim|None|[a-z0-9][-.a-z0-9]*/[-._A-Za-z0-9]+)$",
        "the name of a resource in limits such as example.com/npu, or Claim, or None",
        253,
    ),
]
MOST_TEXT = 4096
"""Most characters of a `Text`."""
Text = Annotated[str, Field(min_length=1, max_length=MOST_TEXT)]
ShortText = Annotated[str, Field(min_length=1, max_length=256)]
LongText = Annotated[str, Field(max_length=32768)]
Image = Annotated[str, Field(min_length=1, max_length=512)]
Replicas = Annotated[int, Strict(), Field(ge=0, le=10_000)]
Quantity = Annotated[int | str, QuantityText()]
Opaque = Annotated[dict[str, Any], OpaqueObject()]
