"""Fine-tuning: a classifier on pretrained layers, trained in phases that run no layer twice."""

from alexnet_keras.transfer.classifier import HEADS, Classifier, build_classifier
from alexnet_keras.transfer.cutting import split_model
from alexnet_keras.transfer.feature_cache import FeatureCache
from alexnet_keras.transfer.fine_tune import FineTuned, Settings, fine_tune
from alexnet_keras.transfer.from_scratch import FromScratch, train_from_scratch
from alexnet_keras.transfer.plan import Phase, plan_phases

__all__ = [
    "HEADS",
    "Classifier",
    "FeatureCache",
    "FineTuned",
    "FromScratch",
    "Phase",
    "Settings",
    "build_classifier",
    "fine_tune",
    "plan_phases",
    "split_model",
    "train_from_scratch",
]
