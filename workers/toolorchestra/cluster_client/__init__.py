"""A cluster as the command line uses it: as the person who runs it, over the official client, without the operator.

Needs the extra `client`. Nothing here imports a trainer, and everything that only decides is pure.
"""
