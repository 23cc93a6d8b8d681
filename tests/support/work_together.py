"""One process of a small run with everything on, alone or as one of several workers.

python work_together.py '{"output": DIR, ...}', as `workers.start` does.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import sys
import threading
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import ml_dtypes
import numpy as np
import tensorflow as tf
from PIL import Image

from alexnet_keras import UserError, training, viewing
from alexnet_keras.data import Examples, TrainingParts, pipeline
from alexnet_keras.training import multiworker
from alexnet_keras.training.step import TrainingStep

#: training photographs, of which one cannot be read; two whole batches and a part of a third
COUNT, UNREADABLE = 100, 5
WATCHED = 10
PLAN = training.Plan(
    variant="alexnet",
    normalization="batch",
    width=0.05,
    image_size=64,
    initialization="he",
    learning_rate=0.02,
    epochs=2,
    # For two workers and three, in groups of eight that are mixed.
    batch_size=48,
    mixup=0.2,
    cutmix=1.0,
    label_smoothing=0.1,
    clip_norm=5.0,
    ema=0.9,
    seed=3,
    checkpoint_seconds=0.01,
).resolved()


def decode_window(content: tf.Tensor, window: Any, size: int) -> tf.Tensor:
    """Stands in for the real one, which has tests of its own and takes seconds to trace."""
    image = tf.io.decode_png(content, channels=3)
    top, left, height, width = tf.unstack(window(tf.shape(image)[0], tf.shape(image)[1]))
    return tf.image.resize(image[top : top + height, left : left + width], [size, size])


def photographs() -> TrainingParts:
    """Noise in three classes, in memory."""
    rng = np.random.default_rng(0)
    total = COUNT + 2 * WATCHED

    def encoded(i: int) -> bytes:
        if i == UNREADABLE:
            return b"no image"
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (70 + i % 9, 80, 3), np.uint8)).save(file, "PNG")
        return file.getvalue()

    keys, labels = [str(i) for i in range(total)], rng.integers(0, 3, total)
    every = Examples("noise", ("a", "b", "c"), keys, labels, [encoded(i) for i in range(total)])
    cuts = np.split(np.arange(total), [COUNT, COUNT + WATCHED])
    return TrainingParts(*(every.select(cut) for cut in cuts))


def strange_checkpoint() -> training.Checkpoint:
    """What is easily lost on the way: types, shapes, NaN with a payload, a number without end."""
    payload = np.array([0x7FC01234, 0xFF800001, 0x80000000], np.uint32).view(np.float32)
    arrays = {
        "nan": payload,
        "long": np.arange(-5, 100_000, dtype=np.int64) * 3**15,
        "columns": np.asfortranarray(np.arange(12, dtype=np.float64).reshape(3, 4)),
        "half": np.array([1.5, -2.25, np.inf], ml_dtypes.bfloat16),
        "flags": np.array([True, False, True]),
        "scalar": np.array(7, np.int32),
        "none": np.zeros((0, 3), np.float32),
    }
    return training.Checkpoint(12, arrays, {"rate": 0.1, "best": float("inf"), "ü": [1, None]})


def kill_at(step: int, delay: float) -> None:
    """SIGKILLs this process `delay` seconds into a step."""
    whole = TrainingStep.__call__

    def killed(self: TrainingStep, number: int, *args: Any, **keywords: Any) -> Any:
        if number == step:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return whole(self, number, *args, **keywords)

    TrainingStep.__call__ = killed


def terminate_in(step: int) -> None:
    """Sends this process SIGTERM in a step, so that the next one tells the others."""
    whole = TrainingStep.__call__

    def terminated(self: TrainingStep, number: int, *args: Any, stop: bool = False) -> Any:
        if number == step:
            signal.raise_signal(signal.SIGTERM)
        return whole(self, number, *args, stop=stop)

    TrainingStep.__call__ = terminated


def record_examples(seen: list[np.ndarray]) -> None:
    """Notes the examples of weight 1 that this process trains on, with the step."""
    whole = TrainingStep.__call__

    def recorded(self: TrainingStep, number: int, batch: Any, **keywords: Any) -> Any:
        examples, weights = (_local(batch[name]) for name in ("examples", "weights"))
        given = examples[weights == 1]
        seen.append(np.stack([np.full_like(given, number), given]))
        return whole(self, number, batch, **keywords)

    TrainingStep.__call__ = recorded


def _local(value: Any) -> np.ndarray:
    """A part of a batch of the one replica of this process."""
    (tensor,) = getattr(value, "values", (value,))
    return tensor.numpy()


def terminates() -> bool:
    """Whether SIGTERM ends this process, so that nothing catches or ignores it."""
    status = Path("/proc/self/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line[:6] in _SIGNALS]
    return len(masks) == 2 and not any(mask >> (signal.SIGTERM - 1) & 1 for mask in masks)


_SIGNALS = ("SigCgt", "SigIgn")


def main() -> int:
    asked = json.loads(sys.argv[1])
    output = Path(asked["output"])
    pipeline.decode_window = decode_window
    seen: list[np.ndarray] = []
    record_examples(seen)
    if "killed" in asked:
        kill_at(**asked["killed"])
    if "terminated" in asked:
        terminate_in(**asked["terminated"])
    if asked["several"]:
        strategy = multiworker.worker_strategy(PLAN.batch_size, wait_seconds=asked["wait_seconds"])
    else:
        strategy = tf.distribute.get_strategy()
    chief = multiworker.is_chief(strategy)
    result: dict[str, Any] = {"terminates": terminates()}
    training.make_repeatable(PLAN.seed)
    parts = photographs()
    with multiworker.lost_workers(strategy):
        if asked.get("share"):
            multiworker.CHUNK = 1000
            shared = multiworker.from_chief(strategy, strange_checkpoint() if chief else None)
            (output / f"shared-{asked['rank']}.pickle").write_bytes(pickle.dumps(shared))
            assert multiworker.from_chief(strategy, None if chief else shared) is None
            same = {"seed": 1, "photographs": "abc"}
            multiworker.check_same(strategy, same)
            try:
                multiworker.check_same(strategy, same | {"photographs": str(asked["rank"] == 1)})
            except UserError as error:
                result["different"] = str(error)
        with strategy.scope():
            made = training.set_up(PLAN, 3, len(parts.train))
        with training.Trainer(
            PLAN,
            made,
            parts,
            strategy=strategy,
            folder=Path(asked["run"]) if chief else None,
            display=viewing.Silent(),
        ) as trainer:
            result["first_step"] = trainer.step
            try:
                trainer.train()
                code = 0
            except training.Stopped as stopped:
                code = stopped.exit_code
    weights = [*trainer.model.weights, *trainer.average.weights]
    np.savez(
        output / f"result-{asked['rank']}.npz",
        *(variable.numpy() for variable in weights),
        seen=np.concatenate(seen, axis=1),
        step=trainer.step,
        watched=[row["stop_loss"] for row in trainer.rows],
        **result,
    )
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
