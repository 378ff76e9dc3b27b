"""The same cases for pytest-benchmark: its tables, storage and comparisons."""
