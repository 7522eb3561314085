"""Objectives, one per file, named in the resource. Each applies one correction, so that none is applied twice."""
