"""Exceptions for problems that the user can solve."""


class UserError(Exception):
    """A problem with the input, the files or the machine; the message names it and says what to do.

    The command line prints the message without a traceback and exits with status 1.
    """


class TrainingInterruptedError(UserError):
    """The user stopped a training with Ctrl-C; its state is saved and the message says how to go on."""


class UnreadableFileError(UserError):
    """An image or video file is missing, damaged or of an unknown kind; others may be read all the same."""
