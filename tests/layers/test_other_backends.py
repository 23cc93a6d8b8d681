"""The layers on the Keras backends that are not TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from alexnet_keras.layers import (
    BilinearPooling,
    CeilMaxPooling2D,
    LocalResponseNormalization,
    PCAColorAugmentation,
    SpatialResponseNormalization,
)

# The files keep the tensors of the two backends apart.
PROGRAM = """
import keras, numpy as np, tensorflow as tf
from alexnet_keras.layers import (
    BilinearPooling, CeilMaxPooling2D, ClassicDropout, LocalResponseNormalization,
    PCAColorAugmentation, SpatialResponseNormalization)

given, results = dict(np.load("given.npz")), {}
images, alphas, activations = given["images"], given["alphas"], given["activations"]

def keep(name, tensor):
    results[name] = keras.ops.convert_to_numpy(tensor)

for radius in (0, 2, 9):
    keep(f"lrn{radius}", LocalResponseNormalization(radius, 1.5, 0.3, 0.75)(activations))
keep("lrn_half", LocalResponseNormalization(dtype="mixed_float16")(activations * 100))

for size in (1, 4, 5):
    keep(f"spatial{size}", SpatialResponseNormalization(size, 3.0)(activations))
keep("spatial_half", SpatialResponseNormalization(dtype="mixed_float16")(activations * 100))
keep("pooled", CeilMaxPooling2D()(activations - 20))
keep("pooled_half", CeilMaxPooling2D(2, dtype="mixed_float16")(activations - 20))
keep("bilinear", BilinearPooling()(activations))
keep("bilinear_half", BilinearPooling(dtype="mixed_bfloat16")(activations))
keep("dropped", ClassicDropout(0.5, seed=1)(activations, training=True))
keep("halved", ClassicDropout(0.5)(activations))

for per_image in (False, True):
    layer = PCAColorAugmentation(per_image=per_image, seed=5)
    keep(f"augment{per_image}", layer.augment(images, alphas))
    keep(f"call{per_image}", layer(images, training=True))
    keep(f"inference{per_image}", layer(images))
    dataset = tf.data.Dataset.from_tensor_slices((images, alphas))
    mapped = dataset.map(layer.augment).batch(9)
    results[f"mapped_augment{per_image}"] = next(iter(mapped)).numpy()
    mapped = dataset.map(lambda image, alpha: layer(image, training=True)).batch(9)
    results[f"mapped_call{per_image}"] = next(iter(mapped)).numpy()
    results[f"mapped_inference{per_image}"] = next(iter(dataset.map(
        lambda image, alpha: layer(image)).batch(9))).numpy()

layer = PCAColorAugmentation()
layer.adapt(tf.data.Dataset.from_tensor_slices(images))
results["eigenvalues"] = layer.eigenvalues

net = keras.Sequential([
    keras.Input(images.shape[1:]), layer, keras.layers.Conv2D(6, 2),
    LocalResponseNormalization(), SpatialResponseNormalization(), CeilMaxPooling2D(),
    BilinearPooling(), ClassicDropout(0.5), keras.layers.Dense(1)])
net.compile(keras.optimizers.SGD(1e-6), "mse")
results["loss"] = net.fit(images, np.ones((len(images), 1)), verbose=0).history["loss"]
net.save("net.keras")
loaded = keras.models.load_model("net.keras", compile=False)
keep("outputs", net(images))
keep("loaded_outputs", loaded(images))
results["loaded_eigenvalues"] = loaded.layers[0].eigenvalues

black = keras.Sequential([
    keras.Input(images.shape[1:]), keras.layers.Conv2D(4, 2, use_bias=False), BilinearPooling(),
    keras.layers.Dense(1)])
black.compile("sgd", "mse")
black.fit(images * 0, np.ones((len(images), 1)), verbose=0)
keep("kernel", black.layers[0].kernel)
assert keras.backend.backend() == given["backend"]
np.savez("results.npz", **results)
"""


@pytest.mark.reference
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_layers_give_on_another_backend_what_they_give_on_tensorflow(
    backend, repository, tmp_path
):
    pytest.importorskip(backend)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (3, 5, 4, 3)).astype("float32")
    alphas = rng.normal(0, 0.1, (3, 3)).astype("float32")
    activations = rng.normal(0, 4, (2, 4, 3, 6)).astype("float32")
    np.savez(
        tmp_path / "given.npz",
        images=images,
        alphas=alphas,
        activations=activations,
        backend=backend,
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=os.environ
        | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = dict(np.load(tmp_path / "results.npz"))

    for radius in (0, 2, 9):
        expected = LocalResponseNormalization(radius, 1.5, 0.3, 0.75)(activations)
        np.testing.assert_allclose(results[f"lrn{radius}"], expected, rtol=1e-5)
    assert results["lrn_half"].dtype == np.float16
    expected = LocalResponseNormalization()(activations * 100)
    np.testing.assert_allclose(results["lrn_half"], expected, rtol=1.01 * 2**-11)

    for size in (1, 4, 5):
        expected = SpatialResponseNormalization(size, 3.0)(activations)
        np.testing.assert_allclose(results[f"spatial{size}"], expected, rtol=2e-6)
    assert results["spatial_half"].dtype == np.float16
    expected = SpatialResponseNormalization()(activations * 100)
    np.testing.assert_allclose(results["spatial_half"], expected, rtol=1.01 * 2**-11)
    np.testing.assert_array_equal(results["pooled"], CeilMaxPooling2D()(activations - 20))
    expected = CeilMaxPooling2D(2, dtype="mixed_float16")(activations - 20)
    np.testing.assert_array_equal(results["pooled_half"], expected)
    expected = BilinearPooling()(activations)
    np.testing.assert_allclose(results["bilinear"], expected, rtol=1e-4, atol=1e-6)
    assert results["bilinear_half"].dtype == np.float32
    np.testing.assert_allclose(results["bilinear_half"], expected, atol=0.02)
    assert np.isfinite(results["kernel"]).all()
    # Each backend draws masks of its own.
    kept = results["dropped"] != 0
    np.testing.assert_array_equal(results["dropped"], activations * kept)
    assert 0.2 < kept.mean() < 0.8
    np.testing.assert_array_equal(results["halved"], activations / 2)

    for per_image in (False, True):
        layer = PCAColorAugmentation(per_image=per_image, seed=5)
        expected = layer.augment(images, alphas)
        for name in ("augment", "mapped_augment"):
            np.testing.assert_allclose(results[f"{name}{per_image}"], expected, atol=1e-3)
        for name in ("inference", "mapped_inference"):
            np.testing.assert_array_equal(results[f"{name}{per_image}"], images)
        # Inside tf.data a seed means the same under every backend.
        expected = [layer(image, training=True) for image in images]
        np.testing.assert_allclose(results[f"mapped_call{per_image}"], expected, atol=1e-3)
        noise = results[f"call{per_image}"] - images
        assert np.ptp(noise, axis=(1, 2)).max() < 1e-3
        assert np.ptp(noise, axis=0).min() > 0.01

    pixels = images.reshape(-1, 3) / 255.0
    expected = np.linalg.eigvalsh(np.cov(pixels.T, bias=True))[::-1]
    np.testing.assert_allclose(results["eigenvalues"], expected, rtol=1e-6)
    np.testing.assert_array_equal(results["loaded_eigenvalues"], results["eigenvalues"])
    np.testing.assert_allclose(results["loaded_outputs"], results["outputs"], rtol=1e-5)
    assert np.isfinite(results["loss"]).all() and np.isfinite(results["outputs"]).all()
