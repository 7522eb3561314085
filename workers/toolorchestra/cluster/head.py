"""A stable command: `python -m toolorchestra.cluster.head` is `pods/head.py`."""

from toolorchestra.pods.head import main

if __name__ == "__main__":
    main()
