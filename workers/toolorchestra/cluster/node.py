"""Stable command: `python -m toolorchestra.cluster.node` runs `pods/node.py`."""

from toolorchestra.pods.node import main

if __name__ == "__main__":
    main()
