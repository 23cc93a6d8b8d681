"""NumPy archives: keys such as `conv1/kernel`, kernels in height, width, in, out order."""

from __future__ import annotations

import numpy as np

from alexnet_keras.weights.formats.archives import Archive
from alexnet_keras.weights.formats.npy import read_array
from alexnet_keras.weights.formats.unreadable import Unreadable


def read_npz(archive: Archive) -> dict[str, np.ndarray]:
    """The arrays of an archive by name; nothing in it is ever unpickled.

    Raises:
        Unreadable: a member is damaged, or no array of floats.
    """
    tensors = {}
    for member in archive.names():
        name = member.removesuffix(".npy")
        if name == member:
            raise Unreadable(f"its member {member[:80]!r} is no array", "give an .npz of arrays")
        tensors[name] = read_array(archive.read(member), name)
    return tensors
