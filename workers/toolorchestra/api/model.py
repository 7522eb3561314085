"""Types that pools and trainings share: models by URI, prices in US dollars, volumes."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import Field

from toolorchestra.api.base import LIST_SET, Model, SecretKeyRef
from toolorchestra.api.rules import ruled, union
from toolorchestra.api.scalars import USD, ModelURI, ObjectName, Quantity, ShortText


class TokenPrice(Model):
    """Price of a model's tokens, per million: one for input, one for output."""

    input_usd_per_million_tokens: USD
    """US dollars per million tokens read, such as "0.80"."""
    output_usd_per_million_tokens: USD
    """US dollars per million tokens written, such as "0.80"."""


class ExpertPrice(TokenPrice):
    """Price of an expert: per token, and a fixed amount per call."""

    per_call_usd: USD = Decimal("0")
    """US dollars per call, such as "0.001"."""


class ModelSource(Model):
    """Where a model's weights come from."""

    uri: ModelURI
    """`hf://owner/name`, `pvc://claim/path`, `s3://bucket/prefix`, or `file:///path` (in the image)."""
    revision: ShortText | None = None
    """Commit, tag or branch of a Hugging Face repository."""
    token_secret_ref: SecretKeyRef | None = None
    """Token for a gated or private repository, or credentials of the object store."""


class EphemeralClaim(Model):
    """A volume that is created for the resource."""

    size: Quantity = "50Gi"
    """Size of the volume, such as 100Gi."""
    storage_class_name: ObjectName | None = None
    """Storage class; absent: the cluster's default."""
    access_modes: tuple[Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"], ...] = Field(
        default=("ReadWriteOnce",), max_length=3, json_schema_extra=LIST_SET
    )
    """Access modes; more than one node needs ReadWriteMany."""


class ExistingClaim(Model):
    """A volume that exists already."""

    claim_name: ObjectName
    """Name of the PersistentVolumeClaim in the same namespace."""
    path: ShortText | None = None
    """Folder in the volume; absent: its root."""


class Cache(Model):
    """A volume for weights and compiled code, so that a restart need not download and compile again."""

    model_config = ruled(*union(EphemeralClaim="ephemeralClaim?", ExistingClaim="existingClaim"))

    type: Literal["EphemeralClaim", "ExistingClaim"]
    """A new volume for the resource, or an existing claim."""
    ephemeral_claim: EphemeralClaim | None = None
    """With type EphemeralClaim; absent: its defaults."""
    existing_claim: ExistingClaim | None = None
    """With type ExistingClaim."""
