"""What can be said of a training before anything starts: GPUs, memory, money, what a cluster lacks. Pure but `look`."""
