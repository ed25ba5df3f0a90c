"""What a command raises when its input is bad."""


class BadInput(Exception):
    """Bad input: one line that names the field, the value and the fix; the command exits with 2."""
