"""Programs that run in a pool's pods, given to `python3 -c`: of the standard library alone, for any vLLM image."""
