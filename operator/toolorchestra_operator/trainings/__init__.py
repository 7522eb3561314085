"""OrchestratorTraining: what is observed of one, what is decided, and the objects that are made."""
