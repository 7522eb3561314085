"""Stable command: `python -m toolorchestra.cluster.entrypoint` runs `pods/entrypoint.py`."""

from toolorchestra.pods.entrypoint import main

if __name__ == "__main__":
    main()
