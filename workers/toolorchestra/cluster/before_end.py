"""Stable command: `python -m toolorchestra.cluster.before_end` runs `pods/pre_stop.py`."""

from toolorchestra.pods.pre_stop import main

if __name__ == "__main__":
    main()
