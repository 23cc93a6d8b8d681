"""Search the fine-tuning settings that fit your photographs, within a time.

Trials differ in where the net is cut, in head, rates, schedule, decay, augmentation, views, input
size and more; what frozen convolutions give is shared by all of them, so that most cost seconds.
Leaves best.json, which `finetune_flowers.py --settings best.json` and the cars recipe take, and a
report page. Started again on the same --output, a search goes on where it was.

\b
python recipes/tune_flowers.py --data-dir DIR --weights TRUNK.npz --minutes 20
    your photographs, ImageNet's convolutions
python recipes/finetune_flowers.py --data-dir DIR --weights TRUNK.npz \\
        --settings runs/tune_flowers/search/best.json
    trains with what was found, measured on photographs that the search has not seen
"""

from tune_options import TuneOptions, tuning_recipe


@tuning_recipe("tune_flowers")
def main(options: TuneOptions) -> None:
    from alexnet_keras import training, transfer, tuning, viewing
    from alexnet_keras.data import prepare_splits
    from alexnet_keras.runs import Run
    from alexnet_keras.weights import automatic_weights

    tuning.share_devices()
    tuning.keep_freed_memory()
    run = Run(options.recipe, options.output, writes=tuning.role() != "worker")
    weights = options.weights
    if weights == "auto":
        weights, sentence = automatic_weights(options.variant)
        run.note(sentence)
    strategy = training.choose_strategy(options.strategy, options.batch_size)

    with run.phase("photographs"):
        splits, _ = prepare_splits(
            options.dataset,
            options.data_dir,
            options.val_dir,
            allow_bad=options.allow_bad,
            say=run.note,
            verbose=0,
        )
        folds = tuning.deal_folds(splits)
        about = {
            "search": options.search,
            "seed": options.seed,
            "photographs": [one.fingerprint() for one in (splits.train, splits.stopping)],
            "weights": str(weights),
            "variant": options.variant,
            **options.defaults,
        }
        tuning.check_same_search(run.folder, about)
        run.write_config(options, **about)
        hypermodel = tuning.FineTuneHyperModel(
            folds[0],
            weights=weights,
            variant=options.variant,
            defaults=transfer.Choices.of(options.defaults),
            precision=training.choose_precision(options.precision),
            seed=options.seed,
        )

    before = tuning.read_outcomes(run.folder / "trials")
    with run.phase("search"), tuning.workers(options.workers, run.folder) as alive:
        found = tuning.search_settings(
            hypermodel,
            folds,
            run.folder,
            search=options.search,
            seconds=60 * options.minutes,
            already=run.seconds_total,
            most_trials=options.trials,
            identity=about,
            alive=alive,
            strategy=strategy,
            on_end=viewing.TrialProgress(options.minutes, before).tell,
            say=run.note,
        )
    if found is None:  # a worker: the chief knows
        return

    with run.phase("report"):
        about |= {"dataset": splits.train.name}
        best = tuning.write_best(run.folder / "best.json", found, about)
        tuning.write_trials(run.folder / "trials.csv", found.outcomes)
        report = viewing.gather_search_report(
            found,
            dataset=splits.train.name,
            weights=str(weights),
            search=options.search,
            notes=run.notes,
            fold_sizes=[len(fold.validation) for fold in folds],
            kept=len(splits.validation),
        )
        viewing.write_search_report(report, run.folder / "report.html")
    viewing.tell_found(best, run.folder)


if __name__ == "__main__":
    main()
