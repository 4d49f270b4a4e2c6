"""The exceptions that mean: the user can mend this."""


class UserError(Exception):
    """A mistake in what the user asked for; its text names what was wrong and what would be right.

    Command lines print it as one line and end with exit code 2.
    """


class DoesNotFitError(UserError):
    """A configuration that a network cannot run; where there are others, it is left out."""
