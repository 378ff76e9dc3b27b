"""Training, evaluation and prediction around the network; install with ``pip install "fastresunet[train]"``."""
