"""The fused operations in plain PyTorch, for any device: what every faster backend is held against."""
