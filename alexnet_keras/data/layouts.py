"""How a set of photographs may lie in folders."""

from __future__ import annotations

from pathlib import Path

from alexnet_keras.data.examples import Examples
from alexnet_keras.data.folders import read_tree
from alexnet_keras.data.tiny_imagenet import is_tiny_imagenet, read_tiny_imagenet


def read_layout(folder: str | Path) -> dict[str, Examples]:
    """The parts of a set by name, `train` first: Tiny ImageNet's, else as `read_tree` reads them.

    Raises:
        UserError: as `read_tree` and `read_tiny_imagenet`.
    """
    return read_tiny_imagenet(folder) if is_tiny_imagenet(folder) else read_tree(folder)
