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


@pytest.fixture
def quick(model, monkeypatch):
    """A hypermodel whose trials are a function; `quick.does` may be replaced."""

    def fit(hp, net, *, interrupt, **_):
        interrupt()
        return model.does(model.choices(hp))

    model.does = lambda choices: {"val_accuracy": 0.5, "val_loss": 1.0}
    monkeypatch.setattr(model, "build", lambda hp: None)
    monkeypatch.setattr(model, "fit", fit)
    return model
