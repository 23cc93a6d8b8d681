"""How fast a trained classifier answers, as SavedModel and in other runtimes.

    python benchmarks/serving.py runs/.../model.keras my_photos
    python benchmarks/serving.py runs/.../model.keras my_photos --only SavedModel "ONNX Runtime"

Each runtime has a process of its own, which loads the same weights and then waits; they take
turns, round after round, so that what else the machine does hits all alike. From pixels: float32
(batch, side, side, 3) to probabilities. From JPEG: the content of files to probabilities; the
SavedModel decodes in its graph, the others with Pillow in as many threads as there are cores, which
gives the same to within a level (for photographs not much larger than the net's input: of large
ones the graph decodes less). Before anything is timed, all answers are compared with Keras's.

The model has to be one of `finetune_flowers.py` with torchvision's convolutions and the default
head, which is written in PyTorch too (`torch_twin.py`; frozen TorchScript, optimized for
inference). int8 is calibrated on 100 of the photographs.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

BATCHES = (1, 8, 32)
RUNTIMES = (
    *("SavedModel", "ONNX Runtime", "OpenVINO", "PyTorch", "LiteRT"),
    *("ONNX Runtime int8", "OpenVINO int8", "LiteRT int8"),
)
CORES = len(os.sched_getaffinity(0))

Answer = Callable[[Any], np.ndarray]


def from_pixels(runtime: str, files: Path) -> Answer:
    """The runtime's function from float32 pixels to probabilities."""
    if runtime == "SavedModel":
        import tensorflow as tf

        signature = tf.saved_model.load(str(files / "saved" / "1")).signatures["predict_images"]
        return lambda pixels: signature(images=tf.constant(pixels))["probabilities"].numpy()
    if runtime.startswith("OpenVINO"):
        import openvino

        name = "model.int8.onnx" if runtime.endswith("int8") else "model.onnx"
        compiled = openvino.compile_model(
            openvino.convert_model(files / name),
            "CPU",
            {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"},
        )
        return lambda pixels: compiled(pixels)[0]
    if runtime == "PyTorch":
        import torch

        torch.set_num_threads(CORES)
        twin = torch.jit.load(str(files / "twin.pt")).eval()
        twin = torch.jit.optimize_for_inference(torch.jit.freeze(twin))

        def answer(pixels: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return twin(torch.from_numpy(pixels)).numpy()

        return answer
    from alexnet_keras.serving import open_exported

    kind = ".onnx" if runtime.startswith("ONNX") else ".tflite"
    return open_exported(files / f"model{'.int8' * runtime.endswith('int8')}{kind}", CORES)


def from_jpeg(runtime: str, files: Path, pixels: Answer, view: dict[str, Any]) -> Answer:
    """The runtime's function from the contents of files to probabilities."""
    if runtime == "SavedModel":
        import tensorflow as tf

        signature = tf.saved_model.load(str(files / "saved" / "1")).signatures["serving_default"]
        return lambda images: signature(images=tf.constant(images))["probabilities"].numpy()
    from PIL import Image, ImageOps

    side = view["side"]

    def decoded(content: bytes) -> np.ndarray:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
        cut = [min(image.size)] * 2 if view["keep_aspect"] else image.size
        cut = [round(length / view["resize_ratio"]) for length in cut]
        starts = [(length - part) // 2 for length, part in zip(image.size, cut, strict=True)]
        box = (*starts, *(start + part for start, part in zip(starts, cut, strict=True)))
        return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box), np.float32)

    threads = ThreadPoolExecutor(CORES)
    return lambda images: pixels(np.stack(list(threads.map(decoded, images))))


def work(runtime: str, folder: str, view: dict[str, Any], connection: Any) -> None:
    """Answers what is asked over the connection: probabilities, or seconds of each call."""
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    files = Path(folder)
    images = np.load(files / "pixels.npy")
    contents = [path.read_bytes() for path in map(Path, view["photographs"])]
    pixels = from_pixels(runtime, files)
    jpeg = from_jpeg(runtime, files, pixels, view)
    while (asked := connection.recv()) is not None:
        kind, batch, seconds = asked
        answer, given = (pixels, images) if kind == "pixels" else (jpeg, contents)
        if not batch:
            found = [answer(given[at : at + 16]) for at in range(0, len(given), 16)]
            connection.send(np.concatenate(found))
            continue
        answer(given[:batch])  # whatever depends on the size of the batch is made now
        took: list[float] = []
        while sum(took) < seconds or len(took) < 3:
            at = len(took) * batch % (len(given) - batch + 1)
            part = given[at : at + batch]
            began = time.perf_counter()
            answer(part)
            took.append(time.perf_counter() - began)
        connection.send(float(np.median(took)))


def prepare(model_path: Path, photographs: Path, folder: Path, count: int) -> dict[str, Any]:
    """Writes the model in every form, and the photographs' pixels and Keras's answers to them."""

    from alexnet_keras import serving
    from alexnet_keras.data import Examples
    from alexnet_keras.data.folders import read_folder
    from alexnet_keras.evaluation import centre_batches, predict
    from alexnet_keras.runs import load_model, read_run
    from alexnet_keras.weights import preprocessing_of
    from torch_twin import write_twin

    model, run = load_model(model_path), read_run(model_path.parent)
    mirrored, labels = run.options["mirror"], run.metrics["class_names"]
    every = read_folder(photographs)
    some = every.select(np.random.default_rng(0).permutation(len(every)))
    shown, calibration = some.select(np.arange(count)), some.select(np.arange(count, count + 100))

    def pixels(examples: Examples) -> np.ndarray:
        return np.concatenate([batch.numpy() for batch, _ in centre_batches(model, examples, 64)])

    serving.export(model, folder / "saved", labels, mirrored=mirrored)
    for write, name in ((serving.export_onnx, "onnx"), (serving.export_litert, "tflite")):
        write(model, folder / f"model.{name}", labels, mirrored=mirrored)
        write(
            *(model, folder / f"model.int8.{name}", labels),
            mirrored=mirrored,
            calibration=pixels(calibration),
        )
    write_twin(model, str(folder / "twin.pt"), mirrored)
    np.save(folder / "pixels.npy", pixels(shown))
    np.save(folder / "answers.npy", predict(model, shown, mirrored=mirrored))
    paths = [str(photographs / key) for key in shown.keys]
    geometry = preprocessing_of(model).geometry
    return {"photographs": paths, "side": model.input_shape[1], **geometry}


def check(runtime: str, kind: str, found: np.ndarray, expected: np.ndarray) -> None:
    """Stops everything where a runtime does not compute the same."""
    other = int((found.argmax(1) != expected.argmax(1)).sum())
    furthest = float(np.abs(found - expected).max())
    print(f"  {runtime}, {kind}: at most {furthest:.6f} from Keras, {other} other labels")
    # Pillow rounds to whole levels after each direction, which moves probabilities a little.
    allowed = 0.25 if runtime.endswith("int8") else 1e-4 if kind == "pixels" else 0.05
    if furthest > allowed:
        raise SystemExit(f"{runtime} does not answer {kind} as Keras does: {furthest} away.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("photographs", type=Path, help="with a subfolder for each class")
    parser.add_argument("--only", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each batch size and round")
    parser.add_argument("--images", type=int, default=256)
    given = parser.parse_args()
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    from input_pipeline import machine

    print(machine())
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        made = processes.Pool(1)  # whose threads are gone when the runtimes are timed
        view = made.apply(prepare, (given.model, given.photographs, Path(folder), given.images))
        made.close()
        made.join()
        expected = np.load(Path(folder, "answers.npy"))
        ends = {}
        for runtime in given.only:
            ours, theirs = processes.Pipe()
            processes.Process(
                target=work, args=(runtime, folder, view, theirs), daemon=True
            ).start()
            theirs.close()  # or the end of its process would not be noticed
            ends[runtime] = ours
        for runtime, end in ends.items():
            for kind in ("pixels", "JPEG"):
                end.send((kind, 0, 0.0))
                check(runtime, kind, end.recv(), expected)
        seconds = measure(ends, given.rounds, given.seconds)
        for end in ends.values():
            end.send(None)
    report(seconds, given.only)


def measure(ends: dict[str, Any], rounds: int, seconds: float) -> dict[tuple, np.ndarray]:
    """Median seconds of a call, (rounds,), by runtime, kind and batch."""
    found: dict[tuple, list[float]] = {}
    order = list(ends)
    for number in range(rounds):
        order.append(order.pop(0))  # none always follows the same one
        for kind in ("pixels", "JPEG"):
            for batch in BATCHES:
                for runtime in order:
                    ends[runtime].send((kind, batch, seconds))
                    found.setdefault((runtime, kind, batch), []).append(ends[runtime].recv())
        print(f"  round {number + 1} of {rounds}", flush=True)
    return {key: np.array(values) for key, values in found.items()}


def report(seconds: dict[tuple, np.ndarray], runtimes: tuple[str, ...]) -> None:
    """Latency at batch 1 and throughput at the best batch, and how many times the first's."""
    for kind in ("pixels", "JPEG"):
        print(f"\nFrom {kind}: ms at batch 1; images/s at the best batch (times {runtimes[0]}'s)")
        rates = {}
        for runtime in runtimes:
            by_batch = {b: b / seconds[runtime, kind, b] for b in BATCHES}
            best = max(BATCHES, key=lambda b: np.median(by_batch[b]))
            rates[runtime] = by_batch[best], 1 / seconds[runtime, kind, 1]
            many, one = (
                found / first
                for found, first in zip(rates[runtime], rates[runtimes[0]], strict=True)
            )
            print(
                f"  {runtime:18}{1e3 * np.median(seconds[runtime, kind, 1]):7.1f} ms "
                f"({np.median(one):4.2f}, {one.min():4.2f} to {one.max():4.2f})"
                f"{np.median(by_batch[best]):8.1f} /s at {best:2} "
                f"({np.median(many):4.2f}, {many.min():4.2f} to {many.max():4.2f})"
            )


if __name__ == "__main__":
    main()
