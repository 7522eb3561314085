"""The root of the operator's own errors; the API server's are in toolorchestra/kube."""

from __future__ import annotations


class OperatorError(Exception):
    """Base of the operator's own errors: of its settings, its questions to NATS and experts, and what it refuses."""
