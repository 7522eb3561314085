"""The root of what the ledger raises."""

from __future__ import annotations


class LedgerError(Exception):
    """Base of the errors of the journal, and of what a checkpoint kept of it."""
