"""The one exception that a user is meant to read, and one cause of it that many writers share."""

import errno


class UserError(ValueError):
    """A mistake that the user can mend.

    The message is one sentence or two: what is wrong, what was received, what to do. Recipes print
    it without a traceback and exit with `exit_code`; in a program of one's own it is a
    `ValueError`.
    """

    exit_code = 2


def is_full_disk(error: BaseException) -> bool:
    """Whether writing failed for want of space, by its number or, from C++, by its text."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return full or "No space left on device" in str(error)
