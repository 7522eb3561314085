"""A stable command: `python -m toolorchestra.cluster.before_end` is `pods/pre_stop.py`."""

from toolorchestra.pods.pre_stop import main

if __name__ == "__main__":
    main()
