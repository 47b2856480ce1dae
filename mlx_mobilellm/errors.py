"""The one exception type for mistakes that a user can mend."""


class MobileLLMError(Exception):
    """Something given to us (a file, a flag, a prompt) is wrong.

    The message is one line for the person at the terminal: what is wrong, where, and what to do about it.
    A command prints it and exits with code 2.
    """
