"""ExpertPool: what is observed of one, what is decided, and the objects that serve it."""
