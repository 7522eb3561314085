"""Stable commands of pods: `python -m toolorchestra.cluster.…` keeps its name, while the code in `pods/` may move.

A training keeps the pod templates that its first operator wrote, and its image. Operator and images are upgraded one
after the other. So these five names are part of the contract (`contract/commands.py`).
"""
