"""A search: trials within a budget, whatever becomes of each."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import tensorflow as tf
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial
from tensorboard.plugins.hparams import api as hparams

from alexnet_keras.data import Splits
from alexnet_keras.errors import UserError, is_full_disk
from alexnet_keras.training import NonFiniteLoss
from alexnet_keras.training.stopping import StopRequest
from alexnet_keras.tuning.budget import Budget, OutOfTime
from alexnet_keras.tuning.hypermodel import FineTuneHyperModel, Scores
from alexnet_keras.tuning.outcomes import (
    COMPLETED,
    DEFAULT_TRIAL,
    FAILED,
    STOPPED,
    Outcome,
    count_processes,
    read_outcome,
    read_outcomes,
)
from alexnet_keras.tuning.processes import PARENT
from alexnet_keras.tuning.space import plain
from alexnet_keras.whole_files import read_json, write_json

#: a trial trains convolutions if its frozen net is within the best share of those so far
BEST_SHARE = 0.1
#: and as long as there is left of this share of the time of all
THAWED_SHARE = 0.1
#: so many trials are compared with before that
LEAST_COMPARED = 10
#: times that a trial is begun whose process is gone before it ends: killed for its memory, say
MOST_ATTEMPTS = 2
#: seconds that a worker waits for its chief after the time is over
WORKER_GRACE = 60.0
TIME_OVER = "the time was over"
#: files of a trial: how often it was begun; since when its convolutions are trained
_ATTEMPTS, _THAWING = "attempts.json", "thawing.json"
#: what keras-tuner calls the epochs that Hyperband gives a trial
_EPOCHS = "tuner/epochs"


class FineTuneTuner(BaseTuner):
    """Runs the trials of a `FineTuneHyperModel` until the time is over.

    A trial that fails is recorded with its reason, and the search goes on; the one that runs when
    the time is over is stopped and counted with what it has. Made again on the same folder, it goes
    on where it was. With keras-tuner's environment variables (`KERASTUNER_TUNER_ID`,
    `KERASTUNER_ORACLE_IP`, `KERASTUNER_ORACLE_PORT`) it is the chief of several processes, or one
    of its workers, which share the folder.

    Args:
        hypermodel: what is tried.
        oracle: of `make_oracle`.
        folder: for everything that is kept of the search.
        budget: that of the oracle; in a worker, one that reads the chief's.
        strategy: what every trial trains under.
        on_end: told of each trial that this process has ended.
        stop: what notes that the process is asked to stop; the search then ends as by Ctrl-C, at
            the next step of a trial, so that no callback in which Python ignores exceptions can
            swallow it.
    """

    def __init__(
        self,
        hypermodel: FineTuneHyperModel,
        oracle: keras_tuner.Oracle,
        folder: Path,
        budget: Budget,
        strategy: tf.distribute.Strategy | None = None,
        on_end: Callable[[Outcome], None] = lambda outcome: None,
        stop: StopRequest | None = None,
    ) -> None:
        self.folder, self.budget = folder, budget
        self._stop = stop or StopRequest()
        self._strategy = strategy or tf.distribute.get_strategy()
        self._on_end = on_end
        with contextlib.redirect_stdout(io.StringIO()):  # "Reloading Tuner from ..."
            super().__init__(
                oracle, hypermodel, directory=str(folder.parent), project_name=folder.name
            )
        # Whoever is killed in the first trial finds it again.
        self.save()

    def _populate_initial_space(self) -> None:
        # What is declared does not depend on a net that would be built.
        space = self.oracle.get_space()
        self.hypermodel.choices(space)
        self.oracle.update_space(space)

    def _get_tuner_fname(self) -> str:
        # keras-tuner's own has the process's name, by which it tells whether there is something to
        # go on with: a search alone would not find that of a chief.
        name = self.tuner_id if self._is_worker() else "tuner"
        return str(Path(self.project_dir, f"{name}.json"))

    def run_stopped_again(self) -> None:
        """Lets trials that were stopped when the time was over run again: there is time again.

        The default too, if it failed: what is found is compared with it.
        """
        for outcome in read_outcomes(self.folder):
            lost = outcome.status == FAILED and int(outcome.trial) == DEFAULT_TRIAL
            if outcome.status == STOPPED or lost:
                folder = Path(self.get_trial_dir(outcome.trial))
                (folder / _ATTEMPTS).unlink(missing_ok=True)
                self.oracle.run_again(outcome.trial)

    def save(self) -> None:
        if not self._is_worker():
            self.oracle.save()
        write_json(Path(self._get_tuner_fname()), self.get_state())

    def _try_run_and_update_trial(self, trial: Any, *given: Any, **options: Any) -> None:
        # keras-tuner's own prints a traceback, and takes every exception for the trial's fault.
        try:
            self._run_and_update_trial(trial, *given, **options)
            trial.status = "COMPLETED"
        except keras_tuner.errors.FailedTrialError as error:
            trial.status, trial.message = "FAILED", str(error)

    def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
        folder = Path(self.get_trial_dir(trial.trial_id))
        began = self.budget.spent
        self._attempt: dict[str, Any] = {
            "trial": trial.trial_id,
            "asked": {
                "unfreeze": trial.hyperparameters.values.get("unfreeze", 0),
                "image_size": trial.hyperparameters.values.get(
                    "image_size", self.hypermodel.image_size
                ),
            },
            "went_on": None,
            "scores": {},
        }
        share = self._share(trial)

        def ended(status: str, reason: str | None = None) -> Outcome:
            scores = self._attempt["scores"]
            hp = _done(trial.hyperparameters, self._attempt["went_on"])
            slow = {"seconds": scores["too_slow_in"]} if "too_slow_in" in scores else None
            outcome = Outcome(
                trial=trial.trial_id,
                settings=plain(hp),
                status=status,
                accuracy=scores.get("val_accuracy"),
                loss=scores.get("val_loss"),
                frozen_accuracy=scores.get("frozen_accuracy"),
                went_on=self._attempt["went_on"],
                thawing=scores.get("thawing_seconds", 0.0),
                too_slow=slow and {**self._attempt["asked"], **slow},
                reason=reason,
                began=began,
                ended=self.budget.spent,
                storing=scores.get("storing_seconds", 0.0),
                worker=self.tuner_id,
                epochs=share,
            )
            outcome.write(folder)
            self._write_hparams(outcome)
            self._on_end(outcome)
            return outcome

        done = read_outcome(folder)
        if done is not None and done.status == COMPLETED:  # killed before keras-tuner knew
            return {"val_accuracy": done.accuracy, "val_loss": done.loss}
        (folder / _THAWING).unlink(missing_ok=True)
        try:
            self._count_attempt(folder)
            self._attempt["scores"] = self._run(
                trial.hyperparameters, share=share, thaws_for=self._thaws_for, folder=folder
            )
        except KeyboardInterrupt:
            (folder / _ATTEMPTS).unlink(missing_ok=True)  # no fault of the trial
            raise
        except OutOfTime as error:
            if done is None or done.accuracy is None:  # else what it had before counts
                ended(STOPPED, TIME_OVER)
            raise keras_tuner.errors.FailedTrialError(TIME_OVER) from error
        except Exception as error:
            if is_full_disk(error):
                (folder / _ATTEMPTS).unlink(missing_ok=True)  # nor is this
                raise
            ended(FAILED, why_failed(error))
            raise keras_tuner.errors.FailedTrialError(why_failed(error)) from error
        scores = self._attempt["scores"]
        if "thawed" in scores:  # what it has is of its frozen net, if not
            self._attempt["went_on"] = bool(scores["thawed"])
        outcome = ended(STOPPED, TIME_OVER) if "stopped" in scores else ended(COMPLETED)
        return {"val_accuracy": outcome.accuracy, "val_loss": outcome.loss}

    def search(self, *given: Any, **options: Any) -> None:
        watching = _ending_after(self.budget) if self._is_worker() else contextlib.nullcontext()
        with contextlib.suppress(OutOfTime), watching:
            super().search(*given, **options)

    def pre_create_trial(self) -> None:
        self.check_stop()
        if self._is_worker():
            self.budget.check()  # a chief that has gone on to something else does not answer

    def check_stop(self) -> None:
        """
        Raises:
            KeyboardInterrupt: the process was asked to stop.
        """
        if self._stop.signal is not None:
            raise KeyboardInterrupt

    def check(self) -> None:
        """
        Raises:
            KeyboardInterrupt: the process was asked to stop.
            OutOfTime: the time is over.
        """
        self.check_stop()
        self.budget.check()

    def done_in(self, outcome: Outcome) -> keras_tuner.HyperParameters:
        """What was trained in a trial: with no convolutions where it did not go on to them."""
        # From the file: a worker may look after its chief has ceased to answer.
        state = read_json(Path(self.get_trial_dir(outcome.trial), "trial.json"))
        return _done(Trial.from_state(state).hyperparameters, outcome.went_on)

    def settings_of(self, outcome: Outcome) -> dict[str, Any]:
        """All that was trained with in a trial, as `Choices.of` takes it."""
        chosen = asdict(self.hypermodel.choices(self.done_in(outcome)))
        return {name: value for name, value in chosen.items() if name != "epochs"}

    def run_on(self, outcome: Outcome, splits: Splits) -> Scores:
        """What was trained in a trial, trained to the end and measured on another fold.

        Raises:
            OutOfTime: the time was over before.
        """
        found = self._run(self.done_in(outcome), splits=splits)
        if "stopped" in found:
            raise OutOfTime
        return Scores(found["val_accuracy"], found["val_loss"])

    def _run(self, hp: keras_tuner.HyperParameters, **options: Any) -> dict[str, float]:
        # What the last trial leaves, graphs above all, would add up.
        keras.utils.clear_session(free_memory=False)
        gc.collect()
        keras.utils.set_random_seed(self.hypermodel.seed)
        with self._strategy.scope():
            model = self.hypermodel.build(hp)
            return self.hypermodel.fit(hp, model, interrupt=self.check, **options)

    def _thaws_for(self, accuracy: float) -> float:
        """As `FineTuneHyperModel.fit` asks; notes it, since other processes count what is taken."""
        seconds = self._worth(accuracy)
        self._attempt["went_on"] = seconds > 0
        if seconds:
            folder = Path(self.get_trial_dir(self._attempt["trial"]))
            write_json(folder / _THAWING, {"since": self.budget.spent})
        return seconds

    def _worth(self, accuracy: float) -> float:
        """Seconds that convolutions are worth after a frozen net of this accuracy."""
        before = [
            one
            for one in read_outcomes(self.folder)
            if one.accuracy is not None and one.trial != self._attempt["trial"]
        ]
        frozen = [
            one.accuracy if one.frozen_accuracy is None else one.frozen_accuracy for one in before
        ]
        # Those that are as good count too: once is enough.
        ahead = sum(one >= accuracy for one in frozen)
        if len(before) < LEAST_COMPARED or ahead > BEST_SHARE * len(before):
            return 0.0
        whole = count_processes(before) * (self.budget.spent + self.budget.left())
        taken = sum(one.ended - one.began if one.went_on else one.thawing for one in before)
        seconds = max(THAWED_SHARE * whole - taken - self._thawing(), 0.0)
        asked = self._attempt["asked"]
        for slow in (one.too_slow for one in before if one.too_slow):
            # As much, or more, in the same time or less.
            if slow["seconds"] >= seconds and all(asked[name] >= slow[name] for name in asked):
                return 0.0
        return seconds

    def _thawing(self) -> float:
        """Seconds for which trials that run elsewhere have been training convolutions."""
        running = [
            path
            for path in self.folder.glob(f"trial_*/{_THAWING}")
            if read_outcome(path.parent) is None
        ]
        return sum(self.budget.spent - read_json(path).get("since", 0.0) for path in running)

    def _share(self, trial: Any) -> float:
        """Of the epochs, as Hyperband has it."""
        epochs = trial.hyperparameters.values.get(_EPOCHS)
        return 1.0 if epochs is None else min(epochs / self.hypermodel.defaults.head_epochs, 1.0)

    def _count_attempt(self, folder: Path) -> None:
        """
        Raises:
            UserError: the trial has been begun too often.
        """
        attempts = int(read_json(folder / _ATTEMPTS).get("begun", 0))
        if attempts >= MOST_ATTEMPTS:
            raise UserError(
                f"The process that ran it was gone {attempts} times before it ended, killed for "
                "its memory perhaps."
            )
        write_json(folder / _ATTEMPTS, {"begun": attempts + 1})

    def _write_hparams(self, outcome: Outcome) -> None:
        """What TensorBoard's HParams page shows of a trial."""
        if outcome.accuracy is None:
            return
        place = self.folder / "tensorboard" / outcome.trial
        with tf.summary.create_file_writer(str(place)).as_default():
            hparams.hparams(outcome.settings, trial_id=outcome.trial)
            tf.summary.scalar("val_accuracy", outcome.accuracy, step=0)
            tf.summary.scalar("val_loss", outcome.loss, step=0)
            tf.summary.scalar("seconds", outcome.ended - outcome.began, step=0)

    def load_model(self, trial: Any) -> keras.Model:
        raise NotImplementedError(
            "Trials leave settings, not weights; give best.json to a fine-tuning recipe."
        )


def _done(hp: keras_tuner.HyperParameters, went_on: bool | None) -> keras_tuner.HyperParameters:
    """What was trained of what `hp` asks for."""
    hp = hp.copy()
    if went_on is False:
        hp.values["unfreeze"] = 0
        hp.ensure_active_values()
    return hp


@contextlib.contextmanager
def _ending_after(budget: Budget) -> Iterator[None]:
    """Ends this worker if it still waits for its chief long after the time is over."""
    ended = threading.Event()

    def watch() -> None:
        parent = os.environ.get(PARENT)
        while not ended.wait(1.0):
            orphaned = parent is not None and str(os.getppid()) != parent
            if orphaned or budget.left() < -WORKER_GRACE:
                print("The chief is gone; this worker ends.", flush=True)
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def why_failed(error: BaseException) -> str:
    """One line: the same for failures of the same kind."""
    if isinstance(error, NonFiniteLoss):
        return "the loss became no number"
    if isinstance(error, MemoryError | tf.errors.ResourceExhaustedError):
        return "out of memory"
    said = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if isinstance(error, UserError):
        return said[0]
    # TensorFlow's begin with where in the graph it was.
    place = -1 if isinstance(error, tf.errors.OpError) else 0
    return f"{type(error).__name__}: {said[place][:200]}"
