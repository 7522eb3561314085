"""A stable command: `python -m toolorchestra.cluster.node` is `pods/node.py`."""

from toolorchestra.pods.node import main

if __name__ == "__main__":
    main()
