"""What every training run needs, and training from scratch.

`trainer.py` is the loop of a run from scratch; `step.py` one step of it; `presets.py` the published
ways of training.
"""

from alexnet_keras.training.callbacks import EpochLog, KeepBest, NonFiniteLoss, StopOnNonFinite
from alexnet_keras.training.checkpoints import Checkpoint, Checkpoints
from alexnet_keras.training.classic_sgd import ClassicSGD
from alexnet_keras.training.history import History
from alexnet_keras.training.multiworker import is_chief
from alexnet_keras.training.net import build_net, make_repeatable
from alexnet_keras.training.optimization import Optimization, build_optimization
from alexnet_keras.training.optimizers import layerwise
from alexnet_keras.training.plan import Plan, set_up
from alexnet_keras.training.precision import (
    choose_precision,
    computing_in,
    set_precision,
)
from alexnet_keras.training.presets import PRESETS, Preset
from alexnet_keras.training.rate_search import RateSearch, search_rate
from alexnet_keras.training.stopping import Stopped
from alexnet_keras.training.strategy import choose_strategy
from alexnet_keras.training.trainer import HISTORY_COLUMNS, Trainer

__all__ = [
    "HISTORY_COLUMNS",
    "PRESETS",
    "Checkpoint",
    "Checkpoints",
    "ClassicSGD",
    "EpochLog",
    "History",
    "KeepBest",
    "NonFiniteLoss",
    "Optimization",
    "Plan",
    "Preset",
    "RateSearch",
    "StopOnNonFinite",
    "Stopped",
    "Trainer",
    "build_net",
    "choose_precision",
    "choose_strategy",
    "computing_in",
    "is_chief",
    "layerwise",
    "make_repeatable",
    "build_optimization",
    "search_rate",
    "set_precision",
    "set_up",
]
