"""Stable command: `python -m toolorchestra.cluster.fetch` runs `pods/fetch.py`."""

from toolorchestra.pods.fetch import main

if __name__ == "__main__":
    main()
