"""ExpertPool: the facts that are observed, the decisions, and the objects that serve a pool."""
