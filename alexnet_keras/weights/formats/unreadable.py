"""How a reader says no."""

from __future__ import annotations


class Unreadable(Exception):
    """Why a weights file is refused, as a clause; `read_weights` makes the user's sentence of it.

    Args:
        reason: what is wrong and what was received.
        advice: what to do, as an imperative.
    """

    def __init__(self, reason: str, advice: str = "get the file again") -> None:
        super().__init__(reason)
        self.advice = advice


def quoted(text: str, longest: int = 80) -> str:
    """A name from a file for a message: printable, and never longer than a line."""
    return repr(text if len(text) <= longest else f"{text[:longest]}...")
