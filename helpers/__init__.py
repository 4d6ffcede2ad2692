"""Image generative models, small enough to read: the package behind the notebooks."""


class UserError(ValueError):
    """A problem that the user can mend. Its message is one sentence: what was given, what is allowed, what to do."""
