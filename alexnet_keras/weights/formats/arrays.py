"""Arrays over bytes that are already there: no size that a file declares is ever allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from alexnet_keras.weights.formats.unreadable import Unreadable

# AlexNet needs 4; more than NumPy's limit of 64 would not raise what is caught here.
MOST_DIMENSIONS = 8


def array_of(
    data: bytes | bytearray | memoryview,
    dtype: str,
    shape: Sequence[int],
    name: str,
    *,
    fortran: bool = False,
) -> np.ndarray:
    """A view of `data` as `dtype`, such as `<f4`.

    It is a copy where the byte order is not this machine's, or where `dtype` is `<bf16` or `>bf16`:
    NumPy has no bfloat16, so that becomes float32.

    Raises:
        Unreadable: `shape` and `dtype` do not ask for exactly the bytes in `data`.
    """
    size = item_size(dtype)
    if not all(isinstance(length, int) and length > 0 for length in shape):
        raise Unreadable(f"{name} has the shape {described(shape)}; sides are 1 or more")
    if len(shape) > MOST_DIMENSIONS or math.prod(shape) * size != len(data):
        raise Unreadable(
            f"{name} should be {described(shape)} of {size} bytes each, but {len(data)} bytes are "
            "there"
        )
    if dtype.endswith("bf16"):
        # bfloat16 is the upper half of a float32.
        upper = np.frombuffer(data, dtype[0] + "u2").astype(np.uint32)
        flat = (upper << 16).view(np.float32)
    else:
        flat = np.frombuffer(data, dtype)
        flat = flat.astype(flat.dtype.newbyteorder("="), copy=False)
    return flat.reshape(tuple(shape), order="F" if fortran else "C")


def item_size(dtype: str) -> int:
    """Bytes of an element of `dtype`, "<bf16" included."""
    return 2 if dtype.endswith("bf16") else np.dtype(dtype).itemsize


def described(shape: Sequence[object]) -> str:
    """A shape for a message, however long or absurd."""
    sides = [str(side)[:20] if isinstance(side, int) else "?" for side in shape[:MOST_DIMENSIONS]]
    return f"({', '.join(sides)}{', ...' if len(shape) > MOST_DIMENSIONS else ''})"
