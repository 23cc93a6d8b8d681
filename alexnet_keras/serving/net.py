"""A classifier as it is served: the same function of the same pixels, arranged for inference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from alexnet_keras.errors import UserError
from alexnet_keras.feature_extraction import features
from alexnet_keras.tower_names import halves
from alexnet_keras.weights import InputPreprocessing, Preprocessing, from_pixels, preprocessing_of

#: what `embed` gives, the first of these that a net has; maps are averaged over their positions
EMBEDDINGS = ("fc7", "pool5")
#: what is pooled, 3 x 3 in steps of 2, where a head that needs no pool5 has left it out
_BEFORE_POOL5 = ("relu5", "conv5")
#: what stands for it in nets that a head has cut before
_LAST = ("relu4", "conv4", "relu3", "conv3")

#: what folding may change in a probability; float32 rounds differently
_SAME = 1e-4


class ServedNet(NamedTuple):
    """A classifier's functions, without their weights' variables where that makes them faster.

    Attributes:
        function: float32 pixels (batch, side, side, 3), RGB in 0..255, to `probabilities` float32
            (batch, classes) and `embedding` float32 (batch, length), which has unit length.
        side: of the input in pixels.
        classes: number of classes.
        embedding: the layer that `embedding` comes from.
        preprocessing: what belongs to the weights; it is inside.
        variables: Keras variables that the function reads; what else it needs is in it.
        parameters: number of weights.
    """

    function: Any
    side: int
    classes: int
    embedding: str
    preprocessing: Preprocessing
    variables: list[Any]
    parameters: int


def served_net(
    model: keras.Model,
    *,
    mirrored: bool = False,
    embedding: str | None = None,
    constant: bool = False,
) -> ServedNet:
    """Arranges `model` for inference.

    What a dense layer computes is left as it is. Kernels of convolutions become constants, which
    oneDNN brings into its own order once and not for each request; those of dense layers stay
    variables, since their order depends on the size of the batch. The scale of the preprocessing
    goes into the first convolution, and its mean is subtracted from whole rows of pixels.

    Args:
        model: a classifier with its preprocessing, from `transfer.build_classifier`, or an
            `AlexNet()` with classes.
        mirrored: as in `evaluation.answers`.
        embedding: the layer that embeddings come from; `None` takes the first of `EMBEDDINGS`, or
            the last convolution of a net that is cut before these.
        constant: whether all weights become constants, for formats that know no variables.

    Raises:
        UserError: the model does not give probabilities of classes, or no finite ones, has no
            fixed input size, no preprocessing or no such layer.
    """
    whole = from_pixels(model)
    side = _side(whole)
    names = _names(_nested(whole))
    found = [name for name in EMBEDDINGS if name in names]
    maps = next((name for name in _BEFORE_POOL5 if name in names), None)
    last = "pool5" if maps else next((name for name in _LAST if name in names), "pool5")
    chosen = embedding or (found[0] if found else last)
    maps = maps or chosen
    source = maps if chosen == "pool5" and "pool5" not in names else chosen
    if source not in names:
        raise UserError(
            f"The model has no layer {chosen!r} for embeddings; its layers are "
            f"{', '.join(sorted(names))}."
        )
    answer = _nested(whole).output_names[0]
    both = features(whole, [source, answer])
    preprocessing = preprocessing_of(both)
    plain = _Plain(both)
    folded = _Folded(both, preprocessing)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, side, side, 3)).astype(np.float32)
    probabilities = np.asarray(plain(tf.constant(pixels))[answer])
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-2):
        raise UserError(
            "A served model gives probabilities, which add up to 1; those of this one add up to "
            f"{probabilities[0].sum():.3g}. Build it with a softmax, or train it to finite weights."
        )
    net = folded if folded.gives(pixels, answer, probabilities) else plain

    constants = [
        (variable, variable.numpy())
        for variable in net.model.variables
        if constant or any(variable is of for of in net.convolved)
    ]

    spec = tf.TensorSpec((None, side, side, 3), tf.float32, name="images")

    @tf.function(input_signature=[spec], autograph=False)  # traced once, constants and all
    def look(images: tf.Tensor) -> dict[str, tf.Tensor]:
        given = [(variable, net.value(variable, value)) for variable, value in constants]
        with keras.StatelessScope([(v, tf.constant(value)) for v, value in given]):
            return net(images)

    def mirror(images: tf.Tensor) -> tf.Tensor:
        # The op takes a tenth of the slice's time here; other runtimes have to transpose for it.
        return images[:, :, ::-1] if constant else tf.reverse(images, [2])

    @tf.function(input_signature=[spec], autograph=False)
    def function(images: tf.Tensor) -> dict[str, tf.Tensor]:
        count = tf.shape(images)[0]
        both = tf.concat([images, mirror(images)], 0) if mirrored else images
        seen = look(both)  # once, so that the weights are there once
        probabilities = seen[answer]
        if mirrored:
            probabilities = (probabilities[:count] + probabilities[count:]) / 2
        vectors = tf.cast(seen[source][:count], tf.float32)
        if source != chosen:
            vectors = tf.nn.max_pool2d(vectors, 3, 2, "VALID")
        if vectors.shape.rank == 4:
            vectors = tf.reduce_mean(vectors, axis=[1, 2])
        return {
            "probabilities": tf.cast(probabilities, tf.float32),
            "embedding": tf.math.l2_normalize(vectors, axis=1),
        }

    held = [variable for variable, _ in constants]
    variables = [v for v in net.model.variables if not any(v is one for one in held)]
    return ServedNet(
        function,
        side,
        model.output_shape[-1],
        chosen,
        preprocessing,
        variables,
        model.count_params(),
    )


class _Plain:
    """The model as it is."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        convolutions = [one for one in _layers(model) if isinstance(one, keras.layers.Conv2D)]
        self.convolved = [weight for one in convolutions for weight in one.weights]

    def value(self, variable: Any, value: np.ndarray) -> np.ndarray:
        """What stands for a variable that becomes a constant."""
        return value

    def __call__(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.model(pixels, training=False)


class _Folded(_Plain):
    """The model without its preprocessing, which the kernels that see pixels take over."""

    def __init__(self, model: keras.Model, preprocessing: Preprocessing) -> None:
        layer = next(one for one in model.layers if isinstance(one, InputPreprocessing))
        super().__init__(keras.Model(layer.output, model.output))
        self.preprocessing = preprocessing
        self.first = [v for v in self.convolved if len(v.shape) == 4 and v.shape[2] == 3]

    def value(self, variable: Any, value: np.ndarray) -> np.ndarray:
        if not any(variable is kernel for kernel in self.first):
            return value
        if self.preprocessing.channels == "BGR":
            value = value[:, :, ::-1]
        return value / np.asarray(self.preprocessing.std, np.float32)[:, None]

    def __call__(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        # Three values a pixel would be subtracted three at a time; a row of them goes in vectors.
        _, height, width, channels = pixels.shape
        mean = np.tile(np.asarray(self.preprocessing.mean, np.float32), width)
        rows = tf.reshape(pixels, [-1, height, width * channels]) - mean
        return super().__call__(tf.reshape(rows, [-1, height, width, channels]))

    def gives(self, pixels: np.ndarray, answer: str, expected: np.ndarray) -> bool:
        """Whether it is the same function: another kernel than the first may see three channels."""
        kernels = [(kernel, self.value(kernel, kernel.numpy())) for kernel in self.first]
        with keras.StatelessScope([(kernel, tf.constant(value)) for kernel, value in kernels]):
            found = self(tf.constant(pixels))[answer]
        return bool(np.allclose(found, expected, atol=_SAME))


def _side(model: keras.Model) -> int:
    shape, outputs = model.input_shape, model.output_shape
    if (
        not isinstance(shape, tuple)
        or len(shape) != 4
        or shape[1] is None
        or shape[1] != shape[2]
        or shape[3] != 3
    ):
        raise UserError(
            f"A served model takes squares of RGB pixels of one size; this one takes {shape}. "
            "Build it with an image size."
        )
    if not isinstance(outputs, tuple) or len(outputs) != 2 or outputs[-1] is None:
        raise UserError(
            f"A served model gives probabilities (batch, classes); this one gives {outputs}. "
            "Build it with include_top=True and classes."
        )
    return shape[1]


def check_servable(model: keras.Model) -> None:
    """Whether a model has the inputs and outputs of a classifier.

    Raises:
        UserError: it has not.
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise UserError("A model that was never built cannot be served; call it once before.")
    _side(model)


def _nested(model: keras.Model) -> keras.Model:
    """The net itself, where it stands behind its preprocessing as a model of its own."""
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return nested[0] if len(nested) == 1 else model


def _names(model: keras.Model) -> set[str]:
    """Names of layers; those of both towers also by the name that they have in common."""
    inputs = (keras.layers.InputLayer, InputPreprocessing)
    names = {layer.name for layer in model.layers if not isinstance(layer, inputs)}
    joined = {name[:-1] for name in names if set(halves(name[:-1])) <= names}
    return names | joined


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer
