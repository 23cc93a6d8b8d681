"""Searching the settings of fine-tuning with keras-tuner, within a time."""

from alexnet_keras.tuning.budget import Budget, OutOfTime
from alexnet_keras.tuning.feature_bank import FeatureBank
from alexnet_keras.tuning.hypermodel import OBJECTIVE, FineTuneHyperModel, Scores
from alexnet_keras.tuning.oracles import SEARCHES, make_oracle
from alexnet_keras.tuning.outcomes import Outcome, read_outcomes
from alexnet_keras.tuning.processes import role, workers
from alexnet_keras.tuning.results import write_best, write_trials
from alexnet_keras.tuning.search import FOLDS, Finalist, Found, search_settings
from alexnet_keras.tuning.space import REASONS
from alexnet_keras.tuning.tuner import FineTuneTuner

__all__ = [
    "FOLDS",
    "OBJECTIVE",
    "REASONS",
    "SEARCHES",
    "Budget",
    "FeatureBank",
    "FineTuneHyperModel",
    "FineTuneTuner",
    "Finalist",
    "Found",
    "OutOfTime",
    "Outcome",
    "Scores",
    "make_oracle",
    "read_outcomes",
    "role",
    "search_settings",
    "workers",
    "write_best",
    "write_trials",
]
