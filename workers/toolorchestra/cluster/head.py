"""Stable command: `python -m toolorchestra.cluster.head` runs `pods/head.py`."""

from toolorchestra.pods.head import main

if __name__ == "__main__":
    main()
