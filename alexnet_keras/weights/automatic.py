"""The choice that `--weights auto` stands for: the best weights that can be had at once."""

from __future__ import annotations

from urllib.parse import urlsplit

from alexnet_keras.errors import UserError
from alexnet_keras.network import unreachable
from alexnet_keras.weights.download import cached
from alexnet_keras.weights.published import PUBLISHED, Published, imagenet_weights
from alexnet_keras.weights.starter import DESCRIPTION, NAME, VARIANT, starter_fault


def automatic_weights(variant: str | None) -> tuple[str | None, str]:
    """The weights to take for a variant, and a sentence that says which and why.

    ImageNet's, where they were published for the variant and are in the cache or their host
    answers; else the starter weights, where the variant is theirs or `None`; else random ones.
    Nothing is downloaded here. Where the host does not answer this takes five seconds at most.

    Args:
        variant: a key of `VARIANTS`; `None` leaves the choice to the weights.

    Returns:
        What to give as `weights`: `"imagenet"`, `"starter"` or `None`. And the sentence.
    """
    starter = variant in (None, VARIANT)
    fault = starter_fault() if starter else None
    try:
        rows = [PUBLISHED[key] for key in imagenet_weights(variant or "torchvision")]
    except UserError:
        why = f"No ImageNet weights were ever published for the variant {variant!r}"
    else:
        if (row := next(filter(_is_cached, rows), None)) is not None:
            return "imagenet", f"Taking the ImageNet weights {row.file_name} from the cache."
        first = rows[0]
        if (reason := unreachable(first.address)) is None:
            others = f"none or {NAME}" if starter and fault is None else "none"
            return "imagenet", (
                f"Taking the ImageNet weights {first.file_name}, which are not in the cache and "
                f"will be downloaded ({first.size / 1e6:.0f} MB); --weights {others} avoids that."
            )
        why = (
            "ImageNet's weights are not in the cache, and their host "
            f"{urlsplit(first.address).hostname} does not answer ({reason})"
        )
    if starter and fault is None:
        return NAME, f"{why}; taking {DESCRIPTION}."
    advice = "give pretrained ones with --weights PATH, or leave out --variant"
    if fault is not None:
        why, advice = f"{why}. {fault[:-1]}", "give pretrained ones with --weights PATH"
    return None, f"{why}. The net starts from random weights; {advice}."


def _is_cached(row: Published) -> bool:
    try:
        return cached(row) is not None
    except OSError:  # a cache that cannot be read
        return False
