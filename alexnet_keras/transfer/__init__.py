"""Fine-tuning: a classifier on pretrained layers, trained in phases that run no layer twice."""

from alexnet_keras.transfer.choices import Choices
from alexnet_keras.transfer.classifier import Classifier, build_classifier, build_readings
from alexnet_keras.transfer.cutting import split_model
from alexnet_keras.transfer.feature_cache import FeatureCache
from alexnet_keras.transfer.fine_tune import FineTuned, Settings, fine_tune
from alexnet_keras.transfer.from_scratch import FromScratch, train_from_scratch
from alexnet_keras.transfer.heads import HEADS, HeadShape
from alexnet_keras.transfer.plan import Phase, plan_phases

__all__ = [
    "HEADS",
    "Choices",
    "Classifier",
    "FeatureCache",
    "FineTuned",
    "FromScratch",
    "HeadShape",
    "Phase",
    "Settings",
    "build_classifier",
    "build_readings",
    "fine_tune",
    "plan_phases",
    "split_model",
    "train_from_scratch",
]
