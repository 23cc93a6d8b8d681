"""One training step, on one device or on all replicas of a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from alexnet_keras.data.stream import Batch
from alexnet_keras.training.dense_gradient import quicken_dense
from alexnet_keras.training.net import at_size
from alexnet_keras.training.randomness import KeyedDropout, step_seed

#: what a step adds up over the examples of its batch
SUMS = ("loss", "top1", "top5", "examples", "unreadable", "stop")


class TrainingStep:
    """Forward, backward and update, compiled once.

    The loss is the mean cross-entropy over the examples of the global batch whose weight is not 0;
    gradients are summed over replicas by the optimizer. With the same global batch, seed and step,
    any number of replicas gives the same weights within rounding, dropout included.

    Args:
        model: from pixels (batch, height, width, 3) to probabilities (batch, classes), built in the
            scope of `strategy`. Its dropout layers are keyed by step and row from now on, and its
            fully connected layers have a faster gradient.
        optimizer: built in that scope too.
        strategy: where replicas run.
        batch_size: rows of the global batch.
        seed: dropout is keyed by it.
        label_smoothing: share of the target probability spread over all classes, 0 to 1.
        clip_norm: largest norm of the whole gradient, to which longer ones are shortened; `None`
            leaves them.
        average: a model like `model` that is to hold the exponential moving average of its weights.
        decay: that average's decay a step; early on it is (1 + step) / (10 + step), if smaller.
        sizes: sides in pixels of the images to come, where they are not all the model's own.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy,
        *,
        batch_size: int,
        seed: int,
        label_smoothing: float = 0.0,
        clip_norm: float | None = None,
        average: keras.Model | None = None,
        decay: float = 0.9999,
        sizes: Sequence[int] = (),
    ) -> None:
        self._dropout = KeyedDropout(model)
        quicken_dense(model)
        self._model, self._optimizer, self._strategy = model, optimizer, strategy
        self._batch_size, self._seed = batch_size, seed
        self._label_smoothing, self._clip_norm = label_smoothing, clip_norm
        self._average, self._decay = average, decay
        with strategy.scope():
            self._at = {side: at_size(model, side) for side in (model.input_shape[1], *sizes)}
        self._compiled = tf.function(self._step, autograph=False)

    def __call__(self, step: int, batch: Any, stop: bool = False) -> dict[str, tf.Tensor]:
        """Trains on one batch of `training_stream` (distributed, where there are replicas).

        Args:
            stop: whether this process was asked to stop: so that all processes learn of it.

        Returns:
            Float32 scalars: the sums `SUMS` over the batch's examples, over all replicas; `stop` is
            above 0 where any process was asked.
        """
        return self._compiled(tf.constant(step, tf.int64), tf.constant(float(stop)), batch)

    def _step(self, step: tf.Tensor, stop: tf.Tensor, batch: Any) -> dict[str, tf.Tensor]:
        sums = self._strategy.run(self._on_replica, (step, stop, batch))
        if self._average is not None:
            self._update_average(step)
        return {
            name: self._strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
            for name, value in sums.items()
        }

    def _on_replica(self, step: tf.Tensor, stop: tf.Tensor, batch: Batch) -> dict[str, tf.Tensor]:
        masks = self._dropout.draw(step_seed(self._seed, step), batch["rows"], self._batch_size)
        return {**self._update(batch, masks), "stop": tf.identity(stop)}

    def _update(self, batch: Batch, masks: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        replica = tf.distribute.get_replica_context()
        weights = batch["weights"]
        seen = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(weights))
        with self._dropout.using(masks), tf.GradientTape() as tape:
            model = self._at[batch["images"].shape[1]]
            probabilities = model(batch["images"], training=True)
            losses = keras.losses.categorical_crossentropy(
                batch["labels"], probabilities, label_smoothing=self._label_smoothing
            )
            # A batch may hold nothing that can be read.
            loss = tf.reduce_sum(losses * weights) / tf.maximum(seen, 1.0)
            scaled = self._optimizer.scale_loss(loss)
        variables = self._model.trainable_variables
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        scales_loss = isinstance(self._optimizer, keras.optimizers.LossScaleOptimizer)
        if self._clip_norm is not None or scales_loss:
            gradients = self._whole(replica, gradients)
        self._optimizer.apply(gradients, variables)
        ranks = rank_of_truth(probabilities, batch["truths"])
        top1, top5 = (tf.cast(ranks <= k, tf.float32) for k in (1, 5))
        return {
            "loss": tf.reduce_sum(losses * weights),
            "top1": tf.reduce_sum(top1 * weights),
            "top5": tf.reduce_sum(top5 * weights),
            "examples": tf.reduce_sum(weights),
            "unreadable": tf.reduce_sum(tf.cast(batch["unreadable"], tf.float32)),
        }

    def _whole(self, replica: Any, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """What sums over replicas to the whole gradient, shortened, the same on each.

        Keras's own clipping looks at each replica's gradient alone, its `LossScaleOptimizer` at the
        first replica's for all.
        """
        whole = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if self._clip_norm is not None:
            scale = getattr(self._optimizer, "dynamic_scale", 1.0)
            whole, _ = tf.clip_by_global_norm(whole, self._clip_norm * scale)
        return [gradient / replica.num_replicas_in_sync for gradient in whole]

    def _update_average(self, step: tf.Tensor) -> None:
        count = tf.cast(step, tf.float32)
        decay = tf.minimum(self._decay, (1.0 + count) / (10.0 + count))

        def update(average: tf.Variable, current: tf.Tensor) -> None:
            average.assign_sub((1.0 - decay) * (average - current))

        for average, current in zip(self._average.weights, self._model.weights, strict=True):
            self._strategy.extended.update(
                average.value, update, args=(current.value,), group=False
            )


def rank_of_truth(probabilities: tf.Tensor, truths: tf.Tensor) -> tf.Tensor:
    """Places of the true classes among all by probability, int32 (batch,), from 1.

    A true class as probable as another counts as behind it, and as the last where probabilities are
    no numbers.
    """
    true = tf.gather(probabilities, truths, axis=1, batch_dims=1)[:, tf.newaxis]
    # Not the sum of `~(probabilities < true)`: graphs make `>=` of it, which is false for NaN.
    behind = tf.reduce_sum(tf.cast(probabilities < true, tf.int32), axis=1)
    return tf.shape(probabilities)[1] - behind
