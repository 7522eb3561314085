"""What runs in the pods of a training's Ray cluster, whoever made them: the head with the driver, and the nodes."""
