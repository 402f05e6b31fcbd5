"""What a session answers with instead of a result."""


class Refused(Exception):
    """A request that can't be done; the text goes to the worker."""
