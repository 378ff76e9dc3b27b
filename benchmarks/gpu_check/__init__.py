"""The first minutes on a GPU: is every kernel right, and how fast? See ``python -m benchmarks.gpu_check --help``."""
