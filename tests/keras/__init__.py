"""The TensorFlow network and its files."""
