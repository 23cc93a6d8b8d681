"""Searches: what becomes of trials that fail, of the time, of interruptions."""

from __future__ import annotations

import errno
import shutil

import pytest
import tensorflow as tf

from alexnet_keras.training import NonFiniteLoss, choose_strategy
from alexnet_keras.tuning import OutOfTime, read_outcomes
from alexnet_keras.tuning import budget as budget_module
from alexnet_keras.tuning.outcomes import Outcome
from alexnet_keras.tuning.tuner import why_failed
from small_search import SHORT, hypermodel, tuner


def test_trials_train_and_are_written_down(model, tmp_path):
    made, _, ended = tuner(model, tmp_path / "s", trials=2)
    made.search()
    assert read_outcomes(made.folder) == ended
    assert [outcome.status for outcome in ended] == ["completed"] * 2
    for outcome in ended:
        assert 0 <= outcome.accuracy <= 1 and outcome.loss > 0
        assert outcome.ended > outcome.began >= 0
        folder = made.folder / f"trial_{outcome.trial}"
        assert (folder / "history.csv").read_text().count("\n") > 1


def test_tensorboard_gets_the_choices_and_scores(quick, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    made, _, ended = tuner(quick, tmp_path / "s", trials=1)
    made.search()
    events = EventAccumulator(str(made.folder / "tensorboard" / ended[0].trial))
    events.Reload()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    data = plugin_data_pb2.HParamsPluginData.FromString(content)
    told = data.session_start_info.hparams
    assert set(told) == set(ended[0].settings)
    assert told["head"].string_value == "bilinear"
    assert set(events.Tags()["tensors"]) >= {"val_accuracy", "val_loss", "seconds"}


class TestFailures:
    def test_one_is_recorded_with_its_reason_and_the_search_goes_on(self, quick, tmp_path):
        count = []

        def does(choices):
            count.append(1)
            if len(count) == 2:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
            return {"val_accuracy": 0.5, "val_loss": 1.0}

        quick.does = does
        made, oracle, ended = tuner(quick, tmp_path / "s", trials=4)
        made.search()
        statuses = [outcome.status for outcome in ended]
        assert statuses == ["completed", "failed", "completed", "completed"]
        assert ended[1].reason == "out of memory" and ended[1].accuracy is None
        assert oracle.stopped_because is None

    def test_a_rate_that_is_too_large_is_one_of_them(self, narrow, folds, tmp_path):
        class Diverging(type(hypermodel(folds, tmp_path))):
            def choices(self, hp):
                found = super().choices(hp)
                return type(found)(**{**vars(found), "head_rate": 1e38})

        model = hypermodel(folds, tmp_path)
        model.__class__ = Diverging
        made, oracle, ended = tuner(model, tmp_path / "s", trials=9)
        made.search()
        assert [outcome.reason for outcome in ended] == ["the loss became no number"] * 3
        assert "3 trials in a row failed for the same reason" in oracle.stopped_because

    def test_three_in_a_row_for_different_reasons_do_not_end_it(self, quick, tmp_path):
        count = []

        def does(choices):
            count.append(1)
            raise (MemoryError, RuntimeError("odd"), MemoryError)[len(count) % 3]

        quick.does = does
        made, oracle, ended = tuner(quick, tmp_path / "s", trials=8)
        made.search()
        assert len(ended) == 8 and oracle.stopped_because is None

    def test_a_stopped_search_says_so_again(self, quick, tmp_path):
        def does(choices):
            raise MemoryError

        quick.does = does
        made, oracle, ended = tuner(quick, tmp_path / "s", trials=8)
        made.search()
        assert len(ended) == 3
        made, oracle, ended = tuner(quick, tmp_path / "s", trials=8)
        made.search()
        assert len(ended) <= 1  # one more of them is enough
        assert oracle.stopped_because.endswith("out of memory")

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (NonFiniteLoss("The loss became nan"), "the loss became no number"),
            (MemoryError(), "out of memory"),
            (ValueError("a\nb"), "ValueError: a"),
            (KeyError(), "KeyError: "),
        ],
    )
    def test_reasons_are_one_line(self, error, reason):
        assert why_failed(error) == reason


class TestTime:
    def test_the_running_trial_is_stopped_and_counted(self, model, tmp_path, monkeypatch):
        made, _, ended = tuner(model, tmp_path / "s", trials=50)
        calls = []

        def left(budget):
            calls.append(1) if ended else None
            return 100.0 if len(calls) < 12 else 0.0

        monkeypatch.setattr(budget_module.Budget, "left", left)
        made.search()
        assert ended[-1].status == "stopped"
        assert ended[-1].reason == "the time was over"
        assert all(outcome.status == "completed" for outcome in ended[:-1])

    def test_stopped_once_more_it_keeps_what_it_had(self, quick, tmp_path):
        quick.does = lambda choices: {"val_accuracy": 0.5, "val_loss": 1.0, "stopped": 1.0}
        made, _, ended = tuner(quick, tmp_path / "s", trials=1)
        made.search()
        (first,) = ended
        assert (first.status, first.accuracy) == ("stopped", 0.5)

        def does(choices):
            raise OutOfTime

        quick.does = does
        made, _, ended = tuner(quick, tmp_path / "s", trials=1)
        made.run_stopped_again()
        made.search()
        assert ended == [] and read_outcomes(made.folder) == [first]

    def test_no_trial_begins_after_the_end(self, quick, tmp_path):
        made, oracle, ended = tuner(quick, tmp_path / "s", seconds=budget_module.RESERVE)
        made.search()
        assert (ended, oracle.ended) == ([], True)


class TestGoingOn:
    def test_an_interrupted_trial_runs_again_and_those_before_do_not(self, quick, tmp_path):
        count = []

        def does(choices):
            count.append(choices)
            if len(count) == 3:
                raise KeyboardInterrupt
            return {"val_accuracy": 0.5, "val_loss": 1.0}

        quick.does = does
        made, _, ended = tuner(quick, tmp_path / "s", trials=5)
        with pytest.raises(KeyboardInterrupt):
            made.search()
        assert len(ended) == 2
        made, _, later = tuner(quick, tmp_path / "s", trials=5)
        made.search()
        names = ["0000", "0001", "0002", "0003", "0004"]
        assert [outcome.trial for outcome in ended + later] == names
        assert count[2] == count[3]  # the same settings again

    def test_in_a_process_of_another_name_too(self, quick, tmp_path, monkeypatch):
        made, _, _ = tuner(quick, tmp_path / "s", trials=3)
        made.search()
        monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
        made, _, later = tuner(quick, tmp_path / "s", trials=4)
        made.search()
        assert [outcome.trial for outcome in later] == ["0003"]

    def test_interruptions_are_no_fault_of_a_trial(self, quick, tmp_path):
        def does(choices):
            raise KeyboardInterrupt

        good, quick.does = quick.does, does
        for _ in range(4):
            made, _, ended = tuner(quick, tmp_path / "s", trials=1)
            with pytest.raises(KeyboardInterrupt):
                made.search()
        quick.does = good
        made, _, ended = tuner(quick, tmp_path / "s", trials=1)
        made.search()
        assert [outcome.status for outcome in ended] == ["completed"]

    def test_nor_are_full_disks(self, quick, tmp_path):
        def does(choices):
            raise OSError(errno.ENOSPC, "No space left on device")

        good, quick.does = quick.does, does
        for _ in range(3):
            made, _, ended = tuner(quick, tmp_path / "s", trials=1)
            with pytest.raises(OSError, match="No space"):
                made.search()
        quick.does = good
        made, _, ended = tuner(quick, tmp_path / "s", trials=1)
        made.search()
        assert [outcome.status for outcome in ended] == ["completed"]

    def test_killed_in_the_first_trial_it_begins_with_the_default_again(self, quick, tmp_path):
        def does(choices):
            raise SystemExit

        good, quick.does = quick.does, does
        made, _, ended = tuner(quick, tmp_path / "s", trials=2)
        with pytest.raises(SystemExit):
            made.search()
        quick.does = good
        made, _, ended = tuner(quick, tmp_path / "s", trials=2)
        made.search()
        assert [outcome.trial for outcome in ended] == ["0000", "0001"]
        assert ended[0].settings["head"] == "bilinear"

    def test_a_trial_whose_process_is_gone_twice_has_failed(self, quick, tmp_path):
        def does(choices):
            raise SystemExit

        good, quick.does = quick.does, does
        for _ in range(2):
            made, _, ended = tuner(quick, tmp_path / "s", trials=2)
            with pytest.raises(SystemExit):
                made.search()
        quick.does = good
        made, _, ended = tuner(quick, tmp_path / "s", trials=2)
        made.search()
        assert [outcome.status for outcome in ended] == ["failed", "completed"]
        assert "gone 2 times before it ended" in ended[0].reason

    @pytest.mark.parametrize("older", [1, 2, 3])
    def test_files_of_different_ages_fit_together_again(self, quick, tmp_path, older):
        """Killed between two writes, a trial's file and the oracle's tell of different moments."""
        states = []
        good = quick.does

        def does(choices):
            states.append((tmp_path / "s" / "trials" / "oracle.json").read_bytes())
            return good(choices)

        quick.does = does
        made, _, _ = tuner(quick, tmp_path / "s", trials=4)
        made.search()
        (made.folder / "oracle.json").write_bytes(states[older])
        made, _, later = tuner(quick, tmp_path / "s", trials=6)
        made.search()
        assert [outcome.trial for outcome in later] == ["0004", "0005"]
        assert len(read_outcomes(made.folder)) == 6

    def test_nothing_is_lost_when_it_is_killed_in_the_middle_of_a_file(self, quick, tmp_path):
        made, _, _ = tuner(quick, tmp_path / "s", trials=2)
        made.search()
        for path in list(made.folder.rglob("*.json")):
            shutil.copy(path, path.with_name(f".{path.name}.99999.part"))
        made, _, later = tuner(quick, tmp_path / "s", trials=3)
        made.search()
        assert [outcome.trial for outcome in later] == ["0002"]


class TestUnfreezing:
    #: of a trial that was given 45 s for it
    TOO_SLOW = {
        "went_on": False,
        "thawing": 7.0,
        "too_slow": {"unfreeze": 2, "image_size": 64, "seconds": 45.0},
    }

    def tried(self, quick, tmp_path, before, thawed=(), workers=1, slow=(), **asked):
        made, _, _ = tuner(quick, tmp_path / "s")
        for number, accuracy in enumerate(before):
            outcome = Outcome(
                trial=str(number),
                settings={},
                status="completed",
                accuracy=accuracy,
                began=10 * number,
                ended=10 * number + 10,
                worker=f"worker{number % workers}",
                **({"went_on": True} if number in thawed else {}),
                **(self.TOO_SLOW if number in slow else {}),
            )
            outcome.write(made.folder / f"trial_{number}")
        made._attempt = {"trial": "100", "asked": {"unfreeze": 2, "image_size": 64} | asked}
        return made._thaws_for

    def test_goes_on_from_the_best_frozen_nets_only(self, quick, tmp_path):
        thaws_for = self.tried(quick, tmp_path, [number / 20 for number in range(20)])
        assert thaws_for(0.8) == 0.0 and thaws_for(0.9) > 0.0

    def test_of_many_that_are_as_good_one_is_enough(self, quick, tmp_path):
        thaws_for = self.tried(quick, tmp_path, [0.5] * 15 + [0.9] * 5)
        assert thaws_for(0.9) == 0.0 and thaws_for(0.91) > 0.0

    def test_takes_no_more_than_its_share_of_the_time(self, quick, tmp_path):
        """A tenth of 600 s for each process, less 10 s for each trial that did."""
        for thawed, seconds in ((0, 60), (5, 10), (7, 0)):
            thaws_for = self.tried(quick, tmp_path / str(thawed), [0.1] * 20, range(thawed))
            assert thaws_for(0.9) == pytest.approx(seconds, abs=1)

    @pytest.mark.parametrize(
        ("slow", "asked", "seconds"),
        [
            ([0], {}, 53),  # more than those 45 s
            ([0, 1, 2], {}, 0),  # 39 s
            ([0, 1, 2], {"unfreeze": 3, "image_size": 96}, 0),
            ([0, 1, 2], {"unfreeze": 1}, 39),
            ([0, 1, 2], {"image_size": 48}, 39),
        ],
    )
    def test_what_was_too_slow_before_is_not_begun_again(
        self, quick, tmp_path, slow, asked, seconds
    ):
        """A tenth of 600 s, less 7 s for each trial in which that was found."""
        thaws_for = self.tried(quick, tmp_path, [0.1] * 20, slow=slow, **asked)
        assert thaws_for(0.9) == pytest.approx(seconds, abs=1)

    def test_what_others_do_at_the_same_time_counts(self, quick, tmp_path):
        thaws_for = self.tried(quick, tmp_path, [0.1] * 20, workers=2)
        folder = tmp_path / "s" / "trials"
        assert thaws_for(0.9) == pytest.approx(120, abs=1)
        assert (folder / "trial_100" / "thawing.json").exists()
        for trial in (99, 98):  # of which one has ended
            (folder / f"trial_{trial}").mkdir()
            (folder / f"trial_{trial}" / "thawing.json").write_text('{"since": -40}')
        (folder / "trial_100" / "thawing.json").unlink()
        Outcome(trial="98", settings={}, status="failed").write(folder / "trial_98")
        assert thaws_for(0.9) == pytest.approx(80, abs=1)

    def test_waits_until_there_is_something_to_compare_with(self, quick, tmp_path):
        assert not self.tried(quick, tmp_path, [0.1] * 9)(0.99)
        assert self.tried(quick, tmp_path / "more", [0.1] * 10)(0.99)


def test_a_trial_may_train_on_several_devices(narrow, folds, tmp_path):
    one, _, alone = tuner(hypermodel(folds, tmp_path), tmp_path / "one", trials=1)
    one.search()
    strategy = choose_strategy("mirrored", SHORT.batch_size)
    two, _, together = tuner(
        hypermodel(folds, tmp_path), tmp_path / "two", trials=1, strategy=strategy
    )
    two.search()
    assert together[0].status == "completed"
    assert together[0].accuracy == pytest.approx(alone[0].accuracy, abs=0.04)
    assert together[0].loss == pytest.approx(alone[0].loss, rel=0.02)
