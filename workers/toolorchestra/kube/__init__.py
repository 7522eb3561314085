"""Kinds and errors of the Kubernetes API, for operator and command line. No client, no I/O."""
