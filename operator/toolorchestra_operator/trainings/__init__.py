"""OrchestratorTraining: the facts that are observed, the decisions, and the objects that are created."""
