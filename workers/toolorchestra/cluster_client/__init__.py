"""Access to a cluster for the command line: with the user's own rights, over the official client, without the operator.

Needs the extra `client`. No module here imports a trainer; modules that only decide are pure.
"""
