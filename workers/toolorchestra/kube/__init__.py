"""The API server of Kubernetes, as operator and command line know it: kinds and errors. No client, no I/O."""
