"""Outputs of a frozen trunk, computed once for each view of a photograph and kept between runs."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

import keras
import numpy as np
import tensorflow as tf

from alexnet_keras.data import Examples, View, fixed_views
from alexnet_keras.data.pipeline import shuffled_steps, untuned, view_seed
from alexnet_keras.errors import UserError
from alexnet_keras.transfer.feature_cache import FeatureCache, FeatureSet, stored_size

#: keys made at a time: all of a million images would be some hundred megabytes
CHUNK = 8192
#: seconds between two looks at what other processes have stored, and until they are not waited for
PAUSE, PATIENCE = 0.1, 60.0


class TrunkOutputs:
    """What a trunk gives for views of photographs, in float16. To be closed, or used in a `with`.

    Processes that need the same at once compute a part of it each.

    float16 rounds to one part in 2,000. Of a bilinear head's probabilities for 2,934 flowers the
    largest change is .00006, and no label is another (`benchmarks/stored_outputs.py`).
    """

    def __init__(
        self,
        trunk: keras.Model,
        cache: FeatureCache,
        batch_size: int,
        prefixes: Sequence[keras.Model] = (),
        run: Callable[[tf.Tensor], list[tf.Tensor]] | None = None,
    ) -> None:
        """
        Args:
            trunk: from pixels (batch, size, size, 3) in 0..255 to activations; its weights are not
                to change any more.
            batch_size: images that it runs on at a time.
            prefixes: shorter trunks that this one begins with, whose outputs will be asked for
                later: they are stored on the way, where there is room for them too.
            run: `in_half(trunk)` from before, of a trunk without prefixes: tracing it again takes
                as long as some batches do.

        Raises:
            UserError: the cache cannot be written to.
        """
        trunks = {trunk_fingerprint(one): one for one in (trunk, *prefixes)}
        if run is None:
            run = in_half(keras.Model(trunk.input, [one.output for one in trunks.values()]))
        self._run = run
        self._image_size, self._shape = trunk.input_shape[1], trunk.output_shape[1:]
        self._batch_size, self._cache = batch_size, cache
        self._fingerprints = list(trunks)
        with ExitStack() as opened:
            self._sets = [
                opened.enter_context(
                    cache.open(
                        fingerprint,
                        one.output_shape[1:],
                        f"{one.layers[-1].name} of {one.name} at {self._image_size} px",
                    )
                )
                for fingerprint, one in trunks.items()
            ]
            self._opened = opened.pop_all()
        self._stored = self._sets[0]

    def __enter__(self) -> TrunkOutputs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._opened.close()

    def rows(
        self,
        asked: Sequence[tuple[Examples, View]],
        bar: keras.utils.Progbar | None = None,
    ) -> list[np.ndarray]:
        """Where the outputs are, for as much of what is asked for as there is room for.

        What is not in the cache yet is computed now.

        Args:
            asked: examples, and a view of each.
            bar: is told of each view of an image that is there.

        Returns:
            For the first of `asked`, or all, int64 (examples,); for `read` and `batches`.

        Raises:
            UserError: an image changed or went away meanwhile.
        """
        digests = [examples.contents.digests() for examples, _ in asked]
        rows = [self._find(view, own) for (_, view), own in zip(asked, digests, strict=True)]
        missing = [np.flatnonzero(found < 0) for found in rows]
        there, sets = self._fitting(np.array([len(which) for which in missing]))
        if bar is not None:
            bar.add(int(sum((found >= 0).sum() for found in rows)))
        wanted = [number for number in range(there) if len(missing[number])]
        parts: list[_Part] = []
        for number in wanted:
            examples, view = asked[number]
            again = parts and examples is asked[number - 1][0]
            if again and np.array_equal(missing[number], missing[number - 1]):
                parts.append(replace(parts[-1], view=view))  # not a million names twice
            else:
                parts.append(_Part(examples, view, digests[number]).select(missing[number]))
        filled = self._compute(parts, sets, bar)
        for number in wanted:
            examples, view = asked[number]
            rows[number] = self._find(view, digests[number])
            if (lost := np.flatnonzero(rows[number] < 0)).size:
                if not filled:
                    return rows[:number]
                raise UserError(
                    f"{examples.keys[lost[0]]} changed while it was read; start again when the "
                    "photographs stay as they are."
                )
        return rows[:there]

    def read(self, rows: np.ndarray, part: slice = slice(None)) -> np.ndarray:
        """float16 (rows, *trunk output), or a part of their last axis."""
        return self._stored.read(rows, part)

    def batches(
        self,
        rows: np.ndarray,
        examples: Examples,
        batch_size: int,
        seed: int,
        part: slice = slice(None),
    ) -> tf.data.Dataset:
        """Endless batches of a random view of each example, in a new order each epoch.

        Args:
            rows: int64 (views, examples), of these examples.
            part: of the outputs' last axis, which alone is read.

        Yields:
            float32 (batch, *trunk output), or that part of it, and float32 (batch, classes).
        """
        views, count = rows.shape

        def choose(steps: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # All of a batch at once: one by one they would take a third of a head's training.
            drawn = tf.random.stateless_uniform(
                tf.shape(indices),
                view_seed(seed, steps[0], indices[0]),
                maxval=views,
                dtype=tf.int64,
            )
            chosen = tf.gather_nd(rows, tf.stack([drawn, indices], axis=1))
            return chosen, tf.gather(examples.labels, indices)

        return untuned(
            shuffled_steps(count, batch_size, seed)
            .batch(min(batch_size, count), drop_remainder=True)
            .map(choose)
            .map(self._loader(examples, part))
            .prefetch(2)
        )

    def in_order(
        self,
        rows: np.ndarray,
        examples: Examples,
        batch_size: int,
        part: slice = slice(None),
    ) -> tf.data.Dataset:
        """The outputs in `rows` (examples,) and their targets, once, in order; as `batches`."""
        pairs = tf.data.Dataset.from_tensor_slices((rows, examples.labels))
        return untuned(pairs.batch(batch_size).map(self._loader(examples, part)).prefetch(2))

    def _loader(self, examples: Examples, part: slice) -> Callable[[tf.Tensor, tf.Tensor], tuple]:
        """From rows and labels of a batch to outputs and one-hot targets."""
        classes, read = len(examples.class_names), partial(self.read, part=part)
        shape = *self._shape[:-1], len(range(*part.indices(self._shape[-1])))

        def load(rows: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            outputs = tf.numpy_function(read, [rows], tf.float16, stateful=True)
            outputs = tf.ensure_shape(outputs, (rows.shape[0], *shape))
            return tf.cast(outputs, tf.float32), tf.one_hot(labels, classes)

        return load

    def _find(self, view: View, digests: np.ndarray) -> np.ndarray:
        """Rows of one view of each image, int64 (images,); -1 where there is none."""
        rows = np.empty(len(digests), np.int64)
        for first in range(0, len(digests), CHUNK):
            some = slice(first, first + CHUNK)
            rows[some] = self._stored.rows(
                [_key(view, digest.tobytes()) for digest in digests[some]]
            )
        return rows

    def _fitting(self, missing: np.ndarray) -> tuple[int, list[FeatureSet]]:
        """For how many views there is room, of which `missing` outputs are to be stored each, and
        the sets that they go to: those of the prefixes only if all of them fit.
        """
        sizes = [stored_size(one.shape) for one in self._sets]
        room = self._cache.room(int(sum(sizes) * missing.sum()), keep=self._fingerprints)
        if sum(sizes) * missing.sum() <= room:
            return len(missing), self._sets
        return int((sizes[0] * np.cumsum(missing) <= room).sum()), self._sets[:1]

    def _compute(
        self, parts: Sequence[_Part], sets: Sequence[FeatureSet], bar: keras.utils.Progbar | None
    ) -> bool:
        """Stores what is asked for, one after the other; False if the disk is full before.

        What other processes are about to store is left to them, and waited for.
        """
        to_store, heeding = sum(len(part) for part in parts), True
        while parts:
            others: list[_Part] = []
            try:
                for keys, outputs in self._batches(parts, others, heeding):
                    if not _added(sets, keys, outputs):
                        return False
                    self._stored.release(keys)
                    to_store -= len(keys)
                    if bar is not None:
                        bar.add(len(keys))
            finally:
                self._stored.release()  # as well of what was not stored
            parts, heeding = self._left_by(others, bar)
        if bar is not None and to_store:  # a full one told again would be shown twice
            bar.add(to_store)
        return True

    def _batches(
        self, parts: Sequence[_Part], others: list[_Part], heeding: bool
    ) -> Iterator[tuple[list[bytes], list[tf.Tensor]]]:
        """Keys and outputs of what no other process is at, which is claimed; the rest is added to
        `others`. Without `heeding` it does not matter who is at it.
        """

        def choose(number: int, indices: np.ndarray) -> np.ndarray:
            part = parts[number].select(indices)
            keys = part.keys()
            ours = self._stored.claim(keys) | (not heeding)
            if not ours.all():
                others.append(part.select(np.flatnonzero(~ours)))
            # In this order: what nobody else is at any more may be there by now.
            missing = ours & (self._stored.rows(keys) < 0)
            self._stored.release([keys[place] for place in np.flatnonzero(ours & ~missing)])
            return indices[missing]

        batches = fixed_views(
            [(part.examples, part.view) for part in parts],
            image_size=self._image_size,
            batch_size=self._batch_size,
            choose=choose,
        )
        for images, digests, numbers in batches:
            views = [parts[number].view for number in numbers.numpy()]
            keys = [_key(*one) for one in zip(views, digests.numpy(), strict=True)]
            yield keys, self._run(images)

    def _left_by(
        self, others: Sequence[_Part], bar: keras.utils.Progbar | None
    ) -> tuple[list[_Part], bool]:
        """Waits for what other processes are at.

        Returns:
            What there is to do, if any of it is not stored and nobody is at it any more, or they
            come to nothing; and whether to heed them.
        """
        parts, patient_until = list(others), time.monotonic() + PATIENCE
        while parts:
            left, abandoned = [], False
            for part in parts:
                keys = part.keys()
                free = self._stored.claim(keys)
                self._stored.release([keys[place] for place in np.flatnonzero(free)])
                missing = self._stored.rows(keys) < 0
                abandoned = abandoned or bool((free & missing).any())
                if missing.any():
                    left.append(part.select(np.flatnonzero(missing)))
            if sum(map(len, left)) < sum(map(len, parts)):
                patient_until = time.monotonic() + PATIENCE
            parts, impatient = left, time.monotonic() > patient_until
            if abandoned or impatient:
                return parts, not impatient
            if parts:
                time.sleep(PAUSE)
                if bar is not None:
                    bar.add(0)
        return [], True


@dataclass(frozen=True)
class _Part:
    """A view of some examples, and their `Contents.digests`."""

    examples: Examples
    view: View
    digests: np.ndarray

    def __len__(self) -> int:
        return len(self.digests)

    def select(self, indices: np.ndarray) -> _Part:
        return _Part(self.examples.select(indices), self.view, self.digests[indices])

    def keys(self) -> list[bytes]:
        return [_key(self.view, digest.tobytes()) for digest in self.digests]


def _added(sets: Sequence[FeatureSet], keys: list[bytes], outputs: list[tf.Tensor]) -> bool:
    """Whether there was room."""
    # The prefixes first: whoever finds an output of the trunk need not look for theirs.
    for stored, some in reversed(list(zip(sets, outputs, strict=False))):
        try:
            stored.add(keys, some.numpy())
        except OSError:
            return False
    return True


def _key(view: View, digest: bytes) -> bytes:
    return hashlib.sha256(repr(view).encode() + digest).digest()


def in_half(trunk: keras.Model) -> Callable[[tf.Tensor], list[tf.Tensor]]:
    """From pixels, as `trunk` takes them, to each of its outputs in float16."""

    # Called as a function, on one device: under a strategy, predict_on_batch would give every
    # device the whole batch.
    def run(images: tf.Tensor) -> list[tf.Tensor]:
        outputs = keras.tree.flatten(trunk(images, training=False))
        return [tf.cast(output, tf.float16) for output in outputs]

    return tf.function(run, autograph=False)


def trunk_fingerprint(trunk: keras.Model) -> str:
    """SHA-256, in hexadecimal, of all that a trunk's outputs depend on besides the pixels.

    Those are its layers with their settings and names, the preprocessing among them, the size of
    its input, its weights, and the versions of this package and of TensorFlow, which decode and
    compute.
    """
    versions = [version("alexnet-keras"), tf.__version__, keras.__version__]
    config = json.dumps([versions, trunk.get_config()], sort_keys=True, default=repr)
    found = hashlib.sha256(config.encode())
    for variable in trunk.weights:
        found.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return found.hexdigest()
