"""Searching the settings of fine-tuning with keras-tuner, within a time."""

from alexnet_keras.tuning.budget import Budget, OutOfTime
from alexnet_keras.tuning.feature_bank import FeatureBank
from alexnet_keras.tuning.finals import Finalist
from alexnet_keras.tuning.hypermodel import OBJECTIVE, FineTuneHyperModel, Scores
from alexnet_keras.tuning.oracles import SEARCHES, make_oracle
from alexnet_keras.tuning.outcomes import Outcome, read_outcomes
from alexnet_keras.tuning.processes import keep_freed_memory, role, share_devices, workers
from alexnet_keras.tuning.results import write_best, write_trials
from alexnet_keras.tuning.search import Found, check_same_search, deal_folds, search_settings
from alexnet_keras.tuning.space import REASONS
from alexnet_keras.tuning.tuner import FineTuneTuner

__all__ = [
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
    "check_same_search",
    "deal_folds",
    "keep_freed_memory",
    "make_oracle",
    "read_outcomes",
    "role",
    "search_settings",
    "share_devices",
    "workers",
    "write_best",
    "write_trials",
]
