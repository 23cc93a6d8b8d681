"""A small classifier to export, and pictures to send it."""

from __future__ import annotations

import io

import keras
import numpy as np
from PIL import Image

from alexnet_keras.transfer import build_classifier

NAMES = ("daisy", "rose", "tulip")
SIDE = 64


def small_classifier(head: str = "bilinear") -> keras.Model:
    """An AlexNet of full width with random weights, three classes and 64 px."""
    keras.utils.set_random_seed(0)
    model = build_classifier(len(NAMES), variant="torchvision", image_size=SIDE, head=head).model
    rng = np.random.default_rng(1)
    last = model.get_layer("fc8")
    last.kernel.assign(rng.normal(0, 0.3, last.kernel.shape))  # a bilinear head's is zero
    return model


def picture(
    kind: str = "JPEG", seed: int = 0, size: tuple[int, int] = (90, 120), **options
) -> bytes:
    """An image file with coarse random colours; `size` is height and width."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize(size[::-1]).save(file, kind, **options)
    return file.getvalue()


def animated_gif(frames: int, side: int) -> bytes:
    """A GIF whose frames compress to almost nothing."""
    file = io.BytesIO()
    shades = [Image.new("P", (side, side), color=i % 2) for i in range(frames)]
    shades[0].save(file, "GIF", save_all=True, append_images=shades[1:], disposal=2, optimize=False)
    return file.getvalue()
