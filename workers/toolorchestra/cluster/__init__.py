"""The stable commands of pods: `python -m toolorchestra.cluster.…` stays where it is while `pods/` may move.

A training keeps the pod templates that its first operator wrote, and its image; operator and images are upgraded one
after the other. So these five names are part of the contract (`contract/commands.py`).
"""
