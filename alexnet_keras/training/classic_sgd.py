"""Gradient descent as it was in 2012 (paper, section 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from alexnet_keras.errors import UserError


@keras.saving.register_keras_serializable(package="alexnet_keras")
class ClassicSGD(keras.optimizers.Optimizer):
    """Momentum with the weight decay inside it, and a rate for each group of variables.

    For a weight w with gradient g and velocity v, at its group's rate and weight decay:

        v <- momentum * v - decay * rate * w - rate * g
        w <- w + v

    Source: paper, section 5; `Weights::update` in `src/weights.cu` of
    computerhistory/AlexNet-Source-Code; Caffe's `SGDSolver` is the same. Two others are not:
    `keras.optimizers.SGD(weight_decay=...)` takes rate * decay * w off the weight beside the
    velocity, and `torch.optim.SGD` keeps the rate out of v, so that a new rate acts on past
    gradients too; with one rate for all steps it is the same as here.

    A group at rate 0 is stilled, as in the 2012 source, which then skips the update: neither its
    weights nor its velocities change, and momentum goes on from there once the rate is above 0
    again.

    For the TensorFlow backend, with or without XLA. Under a `tf.distribute` strategy gradients are
    summed over replicas, as Keras's optimizers do. Gradients are dense; clipping them, averaging
    weights and scaling the loss are not done here. `learning_rate` reads as the vector of rates.

    Args:
        groups: the number (0, 1, ...) of each variable's group, by `variable.path`.
        rates: the first rate of each group, 0 or more; `set_rates` changes them.
        weight_decays: of each group, 0 or more.
        momentum: 0 or more, less than 1.
        name: name of the optimizer.

    Raises:
        UserError: a `ValueError`: a number outside its range, or lists that do not fit together;
            from `build`, a variable without a group.
    """

    def __init__(
        self,
        groups: Mapping[str, int],
        rates: Sequence[float],
        weight_decays: Sequence[float],
        momentum: float = 0.9,
        name: str = "classic_sgd",
    ) -> None:
        # Keras calls this once in every `apply`, on the replica, and hands it to `update_step`.
        super().__init__(learning_rate=self._read_rates, name=name)
        if not 0 <= momentum < 1:
            raise UserError(f"momentum={momentum} must be 0 or more, less than 1.")
        if not weight_decays or not all(_is_size(decay) for decay in weight_decays):
            raise UserError(
                f"weight_decays={list(weight_decays)} must be one or more numbers, 0 or more."
            )
        if unknown := set(groups.values()) - set(range(len(weight_decays))):
            raise UserError(
                f"groups has the numbers {sorted(unknown)}, but weight_decays has "
                f"{len(weight_decays)} groups, counted from 0."
            )
        self.groups = dict(groups)
        self.weight_decays = [float(decay) for decay in weight_decays]
        self.momentum = float(momentum)
        self.rates = self.add_variable(
            (len(self.weight_decays),),
            dtype="float32",
            aggregation="only_first_replica",
            name="rates",
        )
        self.set_rates(rates)

    def set_rates(self, rates: Sequence[float]) -> None:
        """Sets the groups' rates for the steps to come, without a function being traced anew.

        Called on the host: outside of `tf.function`s and, under a strategy, of its replicas.

        Raises:
            UserError: not one rate of 0 or more for each group.
        """
        if len(rates) != len(self.weight_decays) or not all(_is_size(rate) for rate in rates):
            raise UserError(
                f"rates={list(rates)} must be {len(self.weight_decays)} numbers, 0 or more: one "
                "for each group."
            )
        self.rates.assign(np.asarray(rates, np.float32))

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes a velocity of zeros for each variable."""
        if self.built:
            return
        if missing := [v.path for v in variables if v.path not in self.groups]:
            raise UserError(f"No group for the variables {missing}; groups has to name them.")
        super().build(variables)
        self._group_numbers = [self.groups[variable.path] for variable in variables]
        self._velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        group = self._group_numbers[index]
        dtype, decay = variable.dtype, self.weight_decays[group]
        rate = tf.cast(learning_rate[group], dtype)
        increment = -rate * tf.cast(gradient, dtype)
        if decay:
            increment += (-rate * decay) * variable
        stilled = tf.equal(rate, 0)
        # One pass over memory: accum <- momentum * accum + grad, var <- var - lr * accum. The sign
        # is in the increment, so that the velocity is what is added.
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=self._velocities[index].value.handle,
            lr=-tf.cast(~stilled, dtype),
            grad=increment,
            momentum=tf.where(stilled, tf.ones((), dtype), tf.cast(self.momentum, dtype)),
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, the rates as they are now."""
        return {
            "groups": dict(self.groups),
            "rates": [float(rate) for rate in self.rates.numpy()],
            "weight_decays": list(self.weight_decays),
            "momentum": self.momentum,
            "name": self.name,
        }

    def _read_rates(self) -> Any:
        return tf.convert_to_tensor(self.rates)


def _is_size(number: float) -> bool:
    return math.isfinite(number) and number >= 0
