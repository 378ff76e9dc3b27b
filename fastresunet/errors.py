"""The exception for weights that cannot be read."""


class CheckpointError(ValueError):
    """A file, folder or repository does not hold usable weights; the message names it and says what is expected."""
