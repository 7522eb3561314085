"""The base class of a whole resource. It checks the rules over several fields, from the same schema as the CRD's."""

from __future__ import annotations

from typing import Any, Self

from pydantic import ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from toolorchestra.api.base import Model
from toolorchestra.api.schema import structural_schema, violations


class Resource(Model):
    """Base of every kind. Invariant: an instance obeys every rule that the API server enforces on creation."""

    @model_validator(mode="after")
    def _obeys_rules(self) -> Self:
        data: dict[str, Any] = self.model_dump(by_alias=True, mode="json", exclude_none=True)
        found = violations(structural_schema(type(self)), data)
        if found:
            raise ValidationError.from_exception_data(
                type(self).__name__,
                [
                    InitErrorDetails(
                        type=PydanticCustomError("rule", "{message}", {"message": message}), loc=path, input=None
                    )
                    for path, message in found
                ],
            )
        return self
