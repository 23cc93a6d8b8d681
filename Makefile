PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= dev
comma := ,
# One stamp a set of extras: asking for another set installs it into the same environment.
INSTALLED := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

.PHONY: flowers test drill drill-kills lint clean

flowers: $(INSTALLED)  ## fine-tune AlexNet on flowers
	$(BIN)/python recipes/finetune_flowers.py

test: $(INSTALLED)  ## the tests
	$(BIN)/python -m pytest

drill: $(INSTALLED)  ## ten thousand damaged weights files
	$(BIN)/python -m pytest -m drill -s tests/drills/test_mutated_weights.py

drill-kills: $(INSTALLED)  ## a hundred training runs, killed and started again
	$(BIN)/python -m pytest -m drill -s tests/drills/test_kills.py

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is older; name one with make PYTHON=..."; \
	  exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
