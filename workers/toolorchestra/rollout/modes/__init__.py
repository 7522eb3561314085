"""Episode modes: the content of a prompt, the request of a call, the end of the episode. One file per mode."""
