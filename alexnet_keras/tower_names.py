"""Names of layers in nets of two towers: `conv1a` and `conv1b` are the halves of `conv1`."""

from __future__ import annotations

from collections.abc import Collection

SUFFIXES = ("a", "b")


def halves(name: str) -> tuple[str, str]:
    """The names of both towers' layers."""
    return tuple(name + suffix for suffix in SUFFIXES)


def whole(name: str, names: Collection[str]) -> str:
    """What both towers' layers are together: `name` without its letter, if `names` has both."""
    base = name[:-1]
    return base if name.endswith(SUFFIXES) and set(halves(base)) <= set(names) else name
