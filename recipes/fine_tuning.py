"""What the fine-tuning recipes do, from photographs to a served model, step by step."""

from __future__ import annotations

from command_line import FineTuneOptions


def fine_tuning(options: FineTuneOptions) -> None:
    from dataclasses import replace

    import keras

    from alexnet_keras import UserError, serving, training, transfer, viewing
    from alexnet_keras.data import prepare_splits
    from alexnet_keras.evaluation import evaluate
    from alexnet_keras.runs import Run, check_writable
    from alexnet_keras.weights import automatic_weights

    run = Run(options.recipe, options.output)
    check_writable(options.export_dir, "--export-dir")
    if options.weights == "auto":
        source, sentence = automatic_weights(options.variant)
        run.note(sentence)
        options = options.with_weights(source)
    if options.compare_scratch and options.weights_source is None:
        raise UserError(
            "--compare-scratch compares with pretrained weights, and none can be had; give "
            "--weights starter, or the path of a file."
        )
    if options.settings_weights not in (None, options.weights):
        run.note(
            f"The settings were found with the weights {options.settings_weights}, and these are "
            f"{options.weights}."
        )
    asked, options = options, options.resolved()
    choices = transfer.Choices.of(options.choices())
    strategy = training.choose_strategy(options.strategy, choices.batch_size)
    precision = training.choose_precision(options.precision)

    with run.phase("photographs"):
        splits, skipped = prepare_splits(
            options.dataset,
            options.data_dir,
            options.val_dir,
            allow_bad=options.allow_bad,
            say=run.note,
            skipped_path=run.folder / "skipped.txt",
            near_duplicates_path=run.folder / "near_duplicates.txt",
            verbose=run.verbose,
        )

    with run.phase("model"), strategy.scope():
        keras.utils.set_random_seed(options.seed)
        classifier = choices.build(
            len(splits.train.class_names),
            weights=options.weights_source,
            variant=options.variant,
        )
        model, variant, head, loaded = classifier
        run.note(f"Weights {options.weights}: {loaded}.")
        run.note(f"The head is {transfer.HEADS[head]}.")
        phases = choices.plan(classifier)
        trained_in = {phase.name: phase.trained for phase in phases}
        viewing.print_summary(model, trained_in)
        devices = strategy.num_replicas_in_sync
        run.note(f"Training on {devices} device{'s' * (devices > 1)}.")
        config = run.write_config(
            options,
            variant=variant,
            head=head,
            image_size=model.input_shape[1],
            precision=precision,
            phases=phases,
            devices=devices,
        )

    with run.phase("training"), strategy.scope():
        log = training.EpochLog(run.folder / "history.csv", run.folder / "tensorboard")
        settings = choices.training(
            seed=options.seed, precision=precision, search_rate=options.search_rate
        )
        trained = transfer.fine_tune(
            model,
            splits,
            phases,
            settings,
            log=log,
            cache=transfer.FeatureCache(),
            say=run.note,
            verbose=run.verbose,
        )
        run.save_model(model)

    with run.phase("evaluation"):
        result = evaluate(
            model, splits.validation, mirrored=options.mirror, batch_size=options.batch_size
        )
        metrics = run.write_metrics(splits, len(skipped), result, weights=options.weights)
        run.write_predictions(splits.validation, result)
        for sentence in viewing.cautions(splits.train.counts, splits.train.class_names, result):
            run.note(sentence)

    comparison = None
    if options.compare_scratch:
        with run.phase("from scratch"), strategy.scope():
            random = asked.with_weights(None).resolved()
            views = transfer.Choices.of(random.choices()).views_to_train_on()
            keras.utils.set_random_seed(options.seed)
            scratch = transfer.train_from_scratch(
                transfer.build_classifier(
                    len(splits.train.class_names),
                    variant=variant,
                    image_size=asked.image_size,
                    crop=options.crop,
                ).model,
                splits,
                replace(
                    settings,
                    augmentation=views,
                    batch_size=random.batch_size,
                ),
                seconds=run.seconds["training"],
                learning_rate=random.learning_rate,
                log=training.EpochLog(
                    run.folder / "history_from_scratch.csv", run.folder / "tensorboard_from_scratch"
                ),
                say=run.note,
                verbose=run.verbose,
            )
        comparison, sentence = viewing.compare_with_scratch(
            options.weights, log.rows, result, run.seconds["training"], scratch
        )
        run.note(sentence)
        metrics |= {
            "from_scratch_val_top1_same_time": scratch.same_time.top(1),
            "from_scratch_val_top1_plateau": scratch.plateau.top(1),
        }

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
            comparison=comparison,
            rate_searches=trained.rate_searches,
        )
        viewing.write_report(report, run.folder / "report.html")

    with run.phase("export"):
        exported = serving.export(
            model,
            options.export_dir,
            splits.train.class_names,
            mirrored=options.mirror,
            card=serving.ModelCard.of_run(metrics, variant),
        )
    run.finish(metrics, exported)
