"""Episode modes: what a prompt is made of, what a call asks, when it is over. One file per mode."""
