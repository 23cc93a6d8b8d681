from __future__ import annotations

import pytest

from alexnet_keras.transfer import classifier
from small_search import hypermodel, narrow_row, small_folds


@pytest.fixture
def narrow(monkeypatch):
    """Variants of a few channels a layer."""
    monkeypatch.setattr(classifier, "variant_row", narrow_row)


@pytest.fixture(scope="session")
def folds():
    return small_folds()


@pytest.fixture
def model(narrow, folds, tmp_path):
    return hypermodel(folds, tmp_path)
