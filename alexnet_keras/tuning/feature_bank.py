"""One pass of frozen convolutions for every head that a search may try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate, pairwise
from typing import Any

import keras
import numpy as np

from alexnet_keras.data import CentreView, Examples, View
from alexnet_keras.evaluation import Evaluation, evaluate
from alexnet_keras.training import computing_in
from alexnet_keras.transfer import FeatureCache
from alexnet_keras.transfer.cutting import split_model
from alexnet_keras.transfer.fine_tune import measured_views
from alexnet_keras.transfer.trunk_outputs import TrunkOutputs, in_half
from alexnet_keras.weights import preprocessing_of


class FeatureBank:
    """What pooled and bilinear heads of any shape read of a net, as one vector an image.

    A head reads a few stretches of it: heads of other kinds and shapes, cut elsewhere, find in the
    cache what was stored for this one. Classifiers of pretrained convolutions that are the same and
    frozen compute the same from these stretches as from pixels.

    Args:
        readings: of `build_readings`.
        cache: where outputs are kept.
        batch_size: images that the convolutions run on at a time.
        precision: what they compute in, a key of `training.precision.POLICIES`.
    """

    def __init__(
        self, readings: keras.Model, cache: FeatureCache, batch_size: int, precision: str
    ) -> None:
        named = sorted(readings.output.items())
        vector = keras.layers.Concatenate(name="bank", dtype="float32")([one for _, one in named])
        self.model = keras.Model(readings.input, vector, name="alexnet_bank")
        ends = list(accumulate(one.shape[-1] for _, one in named))
        self._stretches = {
            name: (end - one.shape[-1], end) for (name, one), end in zip(named, ends, strict=True)
        }
        self._cache, self._batch_size, self.precision = cache, batch_size, precision
        self._run = in_half(self.model)

    def computing(self) -> AbstractContextManager[None]:
        """Inside, the bank computes in its precision."""
        return computing_in(self.precision, self.model)

    def cut(self, model: keras.Model, first_trained: str) -> tuple[keras.Model, keras.Model, slice]:
        """As `split_model`, with the bank in place of a trunk, where the head reads from it.

        Returns:
            The trunk, the tail, and where in the trunk's outputs that which the tail takes lies.

        Raises:
            NothingBelow: as `split_model`.
        """
        names = [layer.name for layer in model.layers]
        read = [name for name in names if name.startswith("pairs") and name != "pairs"]
        if not read:  # of maps too small for cells there is but one average
            read = [name for name in ("averages", "average") if name in names][:1]
        weighted = [layer.name for layer in model.layers if layer.weights]
        above = names.index(first_trained) > max(map(names.index, read), default=len(names))
        if not above or weighted.index(first_trained) == 0:
            return (*split_model(model, first_trained), slice(None))
        stretches = [self._stretches[self._name(name, names)] for name in read]
        if any(end != first for (_, end), (first, _) in pairwise(stretches)):
            raise AssertionError(f"{read} do not lie side by side in the bank")
        # Of several what joins them, which they are as they lie there.
        tail = keras.Model(
            model.get_layer("pairs" if len(read) > 1 else read[0]).output,
            model.output,
            name=f"{model.name}_tail",
        )
        return self.model, tail, slice(stretches[0][0], stretches[-1][1])

    def store(
        self,
        model: keras.Model,
        first_trained: str,
        asked: Sequence[tuple[Examples, View]],
        interrupt: Callable[[], None],
    ) -> None:
        """Runs the frozen layers on what is not stored yet, as far as there is room for it.

        Args:
            asked: what is needed most first.
            interrupt: called after each batch; may raise.
        """
        trunk, _, _ = self.cut(model, first_trained)
        with (
            self.computing(),
            self._outputs(trunk) as outputs,
        ):
            outputs.rows(asked, _Ticking(interrupt))

    def evaluate(
        self, model: keras.Model, first_trained: str, examples: Examples, mirrored: bool
    ) -> Evaluation:
        """As `evaluation.evaluate` of `model`, whose head reads from the bank where there is room.

        Args:
            mirrored: whether the mean with the mirror images is taken.
        """
        trunk, tail, part = self.cut(model, first_trained)
        views = measured_views(CentreView(**preprocessing_of(model).geometry), mirrored)
        with (
            self.computing(),
            self._outputs(trunk) as outputs,
        ):
            found = outputs.rows([(examples, view) for view in views])
            # Called, not `predict`: tracing would take longer.
            given = [
                np.concatenate(
                    [
                        np.asarray(tail(vectors, training=False), np.float64)
                        for vectors, _ in outputs.in_order(rows, examples, self._batch_size, part)
                    ]
                )
                for rows in found
            ]
        if len(found) < len(views):
            return evaluate(model, examples, mirrored=mirrored)
        return Evaluation(sum(given) / len(given), examples.labels.astype(int))

    def _outputs(self, trunk: keras.Model) -> TrunkOutputs:
        run = self._run if trunk is self.model else None
        return TrunkOutputs(trunk, self._cache, self._batch_size, run=run)

    @staticmethod
    def _name(layer: str, names: list[str]) -> str:
        """What the bank calls that which a layer of a classifier gives."""
        if layer.startswith("pairs"):
            return layer
        last = max(int(name[4]) for name in names if name[:4] == "conv" and name[4:5].isdigit())
        return f"averages{last}"


class _Ticking(keras.utils.Progbar):
    """A progress bar that is not shown, and calls a function at each step."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        super().__init__(None, verbose=0)
        self._interrupt = interrupt

    def add(self, n: int, values: Any = None) -> None:
        self._interrupt()
