from __future__ import annotations

import pytest

from small_search import hypermodel, make_narrow, small_folds


@pytest.fixture
def narrow(monkeypatch):
    """Variants of a few channels a layer."""
    make_narrow(monkeypatch.setattr)


@pytest.fixture(scope="session")
def folds():
    return small_folds()


@pytest.fixture
def model(narrow, folds, tmp_path):
    return hypermodel(folds, tmp_path)
