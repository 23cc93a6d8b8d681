"""What a weights file holds, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class StoredWeights:
    """The tensors of a weights file, under the names and in the layout that `AlexNet` uses.

    Attributes:
        path: the file.
        format: its kind, in words.
        tensors: by name, such as `conv1/kernel` (height, width, in / groups, out), `fc6/kernel`
            (in, out; the inputs in the order height, width, channel) and `conv1/bias` (out,). Float
            arrays as stored; they may be read-only views of the file.
        variants: the variants that the file itself says it may belong to; empty if it is silent.
        preprocessing: the key of `PREPROCESSING` that belongs to the weights; `None` stands for the
            variant's own.
    """

    path: Path
    format: str
    tensors: Mapping[str, np.ndarray]
    variants: tuple[str, ...] = ()
    preprocessing: str | None = None
