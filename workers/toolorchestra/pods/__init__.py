"""Programs in the pods of a training's Ray cluster: the head with the driver, and the nodes."""
