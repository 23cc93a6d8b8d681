from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest

from alexnet_keras.errors import UserError
from alexnet_keras.training.schedules import (
    Cosine,
    Piecewise,
    Plateau,
    Warmup,
    constant,
    divided,
    linear_scaling,
)

PER_EPOCH = 10


def rates(schedule, steps):
    return [schedule.rate(step, PER_EPOCH) for step in range(steps)]


def test_a_constant_rate_stays():
    assert set(rates(constant(0.02), 1000)) == {0.02}


def test_rates_change_with_the_step_that_follows_the_given_epochs():
    schedule = Piecewise((0.3, 0.2, 0.0), (1, 2.5))
    assert rates(schedule, 40) == [0.3] * 10 + [0.2] * 15 + [0.0] * 15


def test_an_epoch_that_ends_between_two_steps_changes_the_rate_at_the_later_one():
    assert rates(Piecewise((0.3, 0.2), (0.25,)), 4) == [0.3, 0.3, 0.3, 0.2]


def test_a_division_is_by_ten_or_by_what_is_asked_for():
    assert rates(divided(0.01, (1, 2, 3)), 40) == pytest.approx(
        [1e-2] * 10 + [1e-3] * 10 + [1e-4] * 10 + [1e-5] * 10
    )
    assert rates(divided(0.8, (1,), factor=2), 20) == [0.8] * 10 + [0.4] * 10


@pytest.mark.reference
def test_divisions_are_pytorchs_multi_step():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 65, 80], gamma=0.1)
    ours = rates(divided(0.1, (3, 6.5, 8)), 100)
    for rate in ours:
        assert rate == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("warmup", [0, 2, 0.5])
def test_cosine_and_warm_up_are_kerass(warmup):
    steps = int(warmup * PER_EPOCH)
    theirs = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else 0.4,
        80 - steps,
        warmup_target=0.4 if warmup else None,
        warmup_steps=steps,
    )
    ours = Warmup(Cosine(0.4, epochs=8, begin=warmup), warmup)
    np.testing.assert_allclose(
        rates(ours, 100), [float(theirs(step)) for step in range(100)], atol=1e-7
    )


def test_a_cosine_begins_at_its_rate_is_half_of_it_half_way_and_ends_at_zero():
    schedule = Cosine(0.4, epochs=8)
    assert schedule.rate(0, PER_EPOCH) == 0.4
    assert schedule.rate(40, PER_EPOCH) == pytest.approx(0.2)
    assert schedule.rate(80, PER_EPOCH) == schedule.rate(81, PER_EPOCH) == 0.0


def test_a_warm_up_rises_by_equal_amounts_and_leaves_the_later_epochs_where_they_were():
    ours = rates(Warmup(divided(0.1, (3,)), 1.5), 40)
    assert ours[:15] == pytest.approx([0.1 * step / 15 for step in range(15)])
    assert ours[15:] == [0.1] * 15 + [0.01] * 10


def test_a_warm_up_of_part_of_a_step_sets_the_first_step_to_zero_only():
    assert rates(Warmup(constant(0.1), 0.05), 3) == [0.0, 0.1, 0.1]
    assert rates(Warmup(constant(0.1), 0), 3) == [0.1] * 3


def play(plateau, watched):
    """The rate of each epoch, when these values are watched after them."""
    ours = []
    for epoch, value in enumerate(watched, start=1):
        ours.append(plateau.rate((epoch - 1) * PER_EPOCH, PER_EPOCH))
        plateau.observe(epoch, value)
    return ours


def test_a_plateau_divides_when_nothing_improved_for_the_patience():
    plateau = Plateau(0.1, patience=2, min_improvement=0.1, most_divisions=2)
    #          best  better  best   no    no -> divided, no   no -> divided,  never a third time
    watched = [1.0, 0.95, 0.85, 0.80, 0.79, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    expected = [0.1] * 5 + [0.01] * 2 + [0.001] * 4
    assert play(plateau, watched) == pytest.approx(expected)


def test_what_a_plateau_said_of_a_step_stays_true():
    plateau = Plateau(0.1, patience=1)
    before = rates(plateau, 2 * PER_EPOCH)
    play(plateau, [1.0, 1.0])
    assert rates(plateau, 2 * PER_EPOCH) == before
    assert plateau.rate(2 * PER_EPOCH, PER_EPOCH) == pytest.approx(0.01)


def test_epochs_that_are_not_watched_count_as_waiting():
    plateau = Plateau(0.1, patience=4)
    for epoch in (2, 4):
        plateau.observe(epoch, 1.0)
    assert plateau.rate(4 * PER_EPOCH, PER_EPOCH) == 0.1
    plateau.observe(6, 1.0)
    assert plateau.rate(6 * PER_EPOCH, PER_EPOCH) == pytest.approx(0.01)


def test_an_epoch_observed_again_after_a_restart_counts_once():
    once, twice = (Plateau(0.1, patience=2) for _ in range(2))
    for epoch, value in enumerate([1.0, 0.5, 0.6, 0.7, 0.8, 0.4], start=1):
        once.observe(epoch, value)
        twice.observe(epoch, value)
        twice.observe(epoch, value)
    assert once.state() == twice.state()


@pytest.mark.parametrize("nothing", [math.nan, math.inf])
def test_what_is_no_number_is_no_improvement(nothing):
    plateau = Plateau(0.1, patience=2)
    assert play(plateau, [nothing, nothing, nothing]) == pytest.approx([0.1, 0.1, 0.01])
    plateau.observe(4, 5.0)
    assert plateau.state()["best"] == 5.0


@pytest.mark.reference
@pytest.mark.parametrize("seed", range(5))
def test_a_plateau_is_pytorchs_reduce_on_plateau(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    falling = 0.3 + np.exp(-np.arange(200) / 20) + 0.03 * rng.normal(size=200)
    patience = 1 + seed
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    # Theirs divides when more than `patience` epochs were bad, ours at that many.
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.1, patience=patience - 1, threshold=0.01, min_lr=0.1e-5, eps=0
    )
    expected = []
    for value in falling:
        expected.append(optimizer.param_groups[0]["lr"])
        theirs.step(value)
    plateau = Plateau(0.1, patience, min_improvement=0.01, most_divisions=5)
    ours = play(plateau, falling)
    assert len(set(ours)) > 3
    assert ours == pytest.approx(expected, rel=1e-9)


def test_what_is_watched_in_a_warm_up_is_not_held_against_it():
    schedule = Warmup(Plateau(0.1, patience=1), 3)
    for epoch in (1, 2, 3):
        schedule.observe(epoch, 9.0)
    assert schedule.state()["divided_after"] == []
    schedule.observe(4, 9.0)
    schedule.observe(5, 9.0)
    assert schedule.state()["divided_after"] == [5]


@pytest.mark.parametrize("stop", range(12))
def test_a_plateau_goes_on_from_its_state_as_if_never_stopped(stop):
    watched = [3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]
    straight = Warmup(Plateau(0.1, patience=2), 1)
    expected = play(straight, watched)
    first, second = (Warmup(Plateau(0.1, patience=2), 1) for _ in range(2))
    begun = play(first, watched[:stop])
    second.load_state(json.loads(json.dumps(first.state())))
    for epoch, value in enumerate(watched[stop:], start=stop + 1):
        begun.append(second.rate((epoch - 1) * PER_EPOCH, PER_EPOCH))
        second.observe(epoch, value)
    assert begun == expected
    assert len(set(expected)) > 2
    assert second.state() == straight.state()


@pytest.mark.parametrize("schedule", [constant(0.1), Cosine(0.1, 3), Warmup(constant(0.1), 1)])
def test_other_schedules_have_nothing_to_remember(schedule):
    before = rates(schedule, 40)
    schedule.observe(1, 5.0)
    schedule.load_state(json.loads(json.dumps(schedule.state())))
    assert schedule.state() == {}
    assert rates(schedule, 40) == before
    assert not schedule.needs_watching
    assert Warmup(Plateau(0.1, 1), 1).needs_watching


@pytest.mark.parametrize(
    "schedule", [divided(0.1, (1, 2)), Cosine(0.1, 3, begin=1), Warmup(divided(0.1, (1, 2)), 0.5)]
)
def test_a_factor_and_another_length_change_rates_and_epochs_in_proportion(schedule):
    changed = schedule.times(3).over(6, of=2)
    assert changed.base == pytest.approx(0.3)
    ours = [changed.rate(step, PER_EPOCH) for step in range(0, 120, 3)]
    assert ours == pytest.approx([3 * rate for rate in rates(schedule, 40)])


def test_a_plateaus_patience_is_at_least_an_epoch_and_nothing_is_taken_over():
    plateau = Plateau(0.1, patience=5)
    play(plateau, [1.0] * 9)
    assert plateau.over(30, of=90).patience == 2
    shortest = plateau.over(1, of=90).times(2)
    assert (shortest.patience, shortest.base) == (1, 0.2)
    assert shortest.state() == Plateau(0.2, patience=1).state()


def test_whole_epochs_stay_whole_in_runs_of_other_lengths():
    schedule = divided(0.01, (25, 51, 79)).over(91 * 7, of=91)
    assert schedule.epochs == (175, 357, 553)


def test_the_rate_is_scaled_in_proportion_to_the_batch():
    assert linear_scaling(0.1, 8192, 256) == pytest.approx(3.2)
    assert linear_scaling(0.01, 64, 128) == 0.005
    assert linear_scaling(0.01, 128, 128) == 0.01
    with pytest.raises(UserError, match="Batches of 0 and 128 examples"):
        linear_scaling(0.1, 0, 128)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Piecewise((0.1,), (1,)), "rising epochs"),
        (lambda: Piecewise((0.1, 0.2, 0.3), (2, 1)), "rising epochs"),
        (lambda: Piecewise((0.1, 0.2, 0.3), (2, 2)), "rising epochs"),
        (lambda: Piecewise((0.1, 0.2), (-1,)), "rising epochs"),
        (lambda: constant(-0.1), "rate of -0.1"),
        (lambda: constant(math.nan), "rate of nan"),
        (lambda: divided(0.1, (1,), factor=1), "divided by 1"),
        (lambda: Cosine(0.1, 5, begin=5), "from epoch 5 to epoch 5"),
        (lambda: Cosine(math.inf, 5), "rate of inf"),
        (lambda: Plateau(0.1, patience=0), "patience=0"),
        (lambda: Plateau(0.1, patience=1, min_improvement=1), "min_improvement=1"),
        (lambda: Plateau(0.1, patience=1, most_divisions=-1), "most_divisions=-1"),
        (lambda: Plateau(0.1, patience=1, factor=0.1), "divided by 0.1"),
        (lambda: Warmup(constant(0.1), -1), "warm-up of -1"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
