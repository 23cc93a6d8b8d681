"""Export a trained classifier: for TensorFlow Serving, and for ONNX Runtime, OpenVINO and LiteRT.

\b
python recipes/export.py runs/finetune_flowers/20261128-101500/model.keras
    the next version in saved_models/finetune_flowers, as the run itself has exported it
python recipes/export.py MODEL.keras --format onnx --format onnx-int8
    model.onnx and model.int8.onnx beside it, and how good they are on the photographs that the
    run has kept for measuring
"""

from pathlib import Path

from command_line import ExportOptions, exporting_recipe, read_lines, read_photograph


@exporting_recipe("export")
def main(options: ExportOptions) -> None:
    import numpy as np

    from alexnet_keras import UserError, serving
    from alexnet_keras.data import prepare_splits, prepare_training
    from alexnet_keras.evaluation import centre_batches, evaluate
    from alexnet_keras.runs import load_model, read_run

    model = load_model(options.model)
    serving.check_servable(model)
    run = read_run(options.model.parent)
    labels = run.metrics.get("class_names", [])
    if options.labels is not None:
        labels = read_lines(options.labels, "--labels")
    if len(labels) != model.output_shape[-1]:
        raise UserError(
            f"{options.model} has {model.output_shape[-1]} outputs and {len(labels)} labels; give "
            "a file with one label a line with --labels."
        )
    mirrored = run.options.get("mirror", False) if options.mirror is None else options.mirror

    if "saved-model" in options.formats:
        version = serving.export(
            model,
            options.export_dir or Path("saved_models", run.recipe or options.model.stem),
            labels,
            mirrored=mirrored,
            top=options.top,
            limits=serving.Limits(
                encoded_bytes=options.max_megabytes * 2**20,
                pixels=options.max_megapixels * 10**6,
                images=options.max_images,
            ),
            embedding=options.embedding,
            photographs=[read_photograph(path, "--warm-up") for path in options.warm_up],
            card=serving.ModelCard.of_run(run.metrics, run.options.get("variant")),
        )
        print(version)

    files = [name for name in options.formats if name != "saved-model"]
    measured = calibration = None
    if files and (options.data_dir or any(name.endswith("int8") for name in files)):
        trained_on = {name: run.options.get(name) for name in ("dataset", "data_dir", "val_dir")}
        if options.data_dir is not None:
            trained_on = {"dataset": None, "data_dir": options.data_dir, "val_dir": None}
        if not any(trained_on.values()):
            raise UserError("int8 is calibrated on photographs; give them with --data-dir.")
        if run.recipe == "train_imagenet":  # which splits by name alone, and reads no image first
            splits = prepare_training(**trained_on)
        else:
            allow_bad = run.options.get("allow_bad", False)
            splits, _ = prepare_splits(**trained_on, allow_bad=allow_bad)
        if list(splits.train.class_names) != list(labels):
            raise UserError(
                f"The photographs show {', '.join(splits.train.class_names)}, and the labels are "
                f"{', '.join(labels)}; give those that the model was trained on with --data-dir."
            )
        some = np.random.default_rng(0).permutation(len(splits.train))
        few = splits.train.select(some[: options.calibration_images])
        calibration = next(iter(centre_batches(model, few, len(few))))[0].numpy()
        measured = splits.validation
        right = evaluate(model, measured, mirrored=mirrored).top(1)
        print(f"{right:.2%} of {len(measured)} photographs kept for measuring: {options.model}")

    for name in files:
        kind, _, precision = name.partition("-")
        write = {"onnx": serving.export_onnx, "litert": serving.export_litert}[kind]
        suffix = {"onnx": ".onnx", "litert": ".tflite"}[kind]
        file = options.model.with_suffix(f".{precision}{suffix}" if precision else suffix)
        images = calibration if precision else None
        write(model, file, labels, mirrored=mirrored, calibration=images)
        megabytes = f"{file}, {file.stat().st_size / 1e6:.1f} MB"
        if measured is None:
            print(megabytes)
        else:
            right = serving.evaluate_exported(file, model, measured).top(1)
            print(f"{right:.2%} of {len(measured)} photographs kept for measuring: {megabytes}")


if __name__ == "__main__":
    main()
