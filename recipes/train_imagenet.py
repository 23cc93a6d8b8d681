"""Train AlexNet from scratch on ImageNet, as published, or on any folder of photographs.

Interrupted in any way, the same command goes on where it was and ends with the same weights. Leaves
a model, a report page and a SavedModel for TensorFlow Serving.

\b
python recipes/train_imagenet.py --preset release
    ImageNet as TFDS prepares it, net 145's own settings
python recipes/train_imagenet.py --data-dir DIR --strategy mirrored
    DIR/train and DIR/val of class folders, on all GPUs of this machine
"""

from train_options import TrainOptions, training_recipe


@training_recipe("train_imagenet")
def main(options: TrainOptions) -> int | None:
    from alexnet_keras import serving, training, viewing
    from alexnet_keras.data import prepare_training
    from alexnet_keras.runs import Run, check_writable, is_finished

    plan = training.Plan(**options.plan).resolved()
    data = {"dataset": options.dataset, "data_dir": options.data_dir, "val_dir": options.val_dir}
    if is_finished(options.output, plan=plan, watch_share=options.watch_share, **data):
        print(f"This run has ended; what came out lies in {options.output}.")
        return None
    # First of all: several machines have to be known before TensorFlow sets up its devices.
    strategy = training.choose_strategy(
        options.strategy, plan.batch_size, wait_seconds=options.worker_timeout
    )
    run = Run(options.recipe, options.output, ("metrics.json",), training.is_chief(strategy))
    if run.writes:
        check_writable(options.export_dir, "--export-dir")

    with run.phase("photographs"):
        photographs = prepare_training(**data, watch_share=options.watch_share, say=run.note)
        classes = photographs.train.class_names

    training.make_repeatable(plan.seed)
    training.set_precision(plan.precision)
    with run.phase("model"), strategy.scope():
        parts = training.set_up(plan, len(classes), len(photographs.train))
        trained_in = {"training": [layer.name for layer in parts.model.layers]}
        if run.writes:
            viewing.print_summary(parts.model, trained_in)
        config = run.write_config(options, plan=plan, devices=strategy.num_replicas_in_sync)

    with (
        run.phase("training"),
        training.Trainer(
            plan,
            parts,
            photographs,
            strategy=strategy,
            folder=run.folder if run.writes else None,
            allow_changes=options.allow_changes,
            display=viewing.Progress(plan.batch_size) if run.writes else viewing.Silent(),
            say=run.note,
        ) as trainer,
    ):
        run.went_before("training", trainer.seconds)
        try:
            trainer.train()
            centre = trainer.measure()
            ten = trainer.measure(ten_crop=True) if options.crops == "10" else None
        except training.Stopped as stopped:
            run.note(
                f"Stopped after step {trainer.step:,} of {trainer.steps:,}, and saved; the same "
                "command goes on from there."
            )
            return stopped.exit_code
    if not run.writes:
        return None

    with run.phase("report"):
        measured = photographs.validation.select(centre.readable)
        run.write_predictions(measured, centre.answers)
        metrics = {
            **run.metrics(
                photographs.train,
                photographs.watched,
                len(trainer.skipped) + centre.unreadable,
                centre.answers,
                "none (random)",
            ),
            **trainer.figures(),
        }
        if ten is not None:
            metrics["val_top1_ten_crop"] = ten.answers.top(1)
            if len(classes) > 5:
                metrics["val_top5_ten_crop"] = ten.answers.top(5)
        report = viewing.gather_report(
            model=trainer.result,
            title=f"AlexNet trained on {photographs.train.name}",
            trained_in=trained_in,
            train=photographs.train,
            validation=measured,
            augmentation=parts.augmentation,
            seed=plan.seed,
            result=centre.answers,
            history=trainer.rows,
            metrics=metrics,
            config=config,
            notes=run.notes,
            stops_early=False,
        )
        viewing.write_report(report, run.folder / "report.html")

    with run.phase("export"):
        run.save_model(trainer.result)
        exported = serving.export(
            trainer.result,
            options.export_dir,
            classes,
            card=serving.ModelCard.of_run(metrics),
        )
    run.finish(metrics, exported)
    print(viewing.final_line(metrics, config))
    return None


if __name__ == "__main__":
    main()
