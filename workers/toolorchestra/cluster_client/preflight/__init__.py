"""Checks a training before it starts: GPUs, memory, cost, what a cluster lacks. Pure, except `look`."""
