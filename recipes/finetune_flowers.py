"""Fine-tune AlexNet on flowers, or on any folder of photographs with one subfolder a class.

Layers without pretrained weights are trained first, then convolutions with them. Leaves a model,
a report page and a SavedModel for TensorFlow Serving.

\b
python recipes/finetune_flowers.py --dataset drawn_flowers --weights starter
    drawn flowers, the weights that come with the package: about 97% in 4 minutes on 2 cores
python recipes/finetune_flowers.py --data-dir DIR --weights TRUNK.npz
    flower photographs, ImageNet's convolutions: about 89% in 11 minutes
"""

from command_line import FineTuneOptions, fine_tuning_recipe


@fine_tuning_recipe("finetune_flowers")
def main(options: FineTuneOptions) -> None:
    import keras

    from alexnet_keras import serving, training, transfer, viewing
    from alexnet_keras.data import AUGMENTATIONS, prepare_splits
    from alexnet_keras.evaluation import evaluate
    from alexnet_keras.runs import Run, check_writable
    from alexnet_keras.weights import automatic_weights

    run = Run(options.recipe, options.output)
    check_writable(options.export_dir, "--export-dir")
    if options.weights == "auto":
        source, sentence = automatic_weights(options.variant)
        run.note(sentence)
        options = options.with_weights(source)
    options = options.resolved()
    strategy = training.choose_strategy(options.strategy, options.batch_size)

    with run.phase("photographs"):
        splits, skipped = prepare_splits(
            options.dataset,
            options.data_dir,
            options.val_dir,
            allow_bad=options.allow_bad,
            say=run.note,
            skipped_path=run.folder / "skipped.txt",
            verbose=run.verbose,
        )

    with run.phase("model"), strategy.scope():
        keras.utils.set_random_seed(options.seed)
        model, variant, head, loaded = transfer.build_classifier(
            len(splits.train.class_names),
            weights=options.weights_source,
            variant=options.variant,
            image_size=options.image_size,
            head=options.head,
        )
        run.note(f"Weights {options.weights}: {loaded}.")
        run.note(f"The head is {transfer.HEADS[head]}.")
        phases = transfer.plan_phases(
            model,
            loaded.loaded,
            head=head,
            unfreeze_from=options.unfreeze_from,
            head_epochs=options.head_epochs,
            epochs=options.epochs,
            learning_rate=options.learning_rate,
        )
        trained_in = {phase.name: phase.trained for phase in phases}
        viewing.print_summary(model, trained_in)
        devices = strategy.num_replicas_in_sync
        run.note(f"Training on {devices} device{'s' * (devices > 1)}.")
        config = run.write_config(
            options,
            variant=variant,
            head=head,
            image_size=model.input_shape[1],
            phases=phases,
            devices=devices,
        )

    with run.phase("training"), strategy.scope():
        log = training.EpochLog(run.folder / "history.csv", run.folder / "tensorboard")
        settings = transfer.Settings(
            augmentation=AUGMENTATIONS[options.augmentation](),
            batch_size=options.batch_size,
            seed=options.seed,
            views=options.views,
        )
        transfer.fine_tune(
            model,
            splits,
            phases,
            settings,
            log=log,
            scratch=run.folder,
            say=run.note,
            verbose=run.verbose,
        )
        run.save_model(model)

    with run.phase("evaluation"):
        result = evaluate(model, splits.validation, batch_size=options.batch_size)
        metrics = run.write_metrics(splits, len(skipped), result, weights=options.weights)
        run.write_predictions(splits.validation, result)

    with run.phase("report"):
        report = viewing.gather_report(
            model=model,
            title=f"AlexNet fine-tuned on {splits.train.name}",
            trained_in=trained_in,
            train=splits.train,
            validation=splits.validation,
            augmentation=settings.augmentation,
            seed=options.seed,
            result=result,
            history=log.rows,
            metrics=metrics,
            config=config,
            notes=run.notes,
        )
        viewing.write_report(report, run.folder / "report.html")

    with run.phase("export"):
        exported = serving.export(model, options.export_dir, splits.train.class_names)
    run.finish(metrics, exported)


if __name__ == "__main__":
    main()
