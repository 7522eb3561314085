"""ToolOrchestra: train a small language model to orchestrate larger models and tools."""

__version__ = "0.1.0"
