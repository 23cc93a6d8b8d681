PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= dev
# Processes of the tests: most tests keep one core busy.
PROCESSES ?= 2
TINY_IMAGENET ?= tiny-imagenet-200
comma := ,
# One stamp a set of extras: asking for another set installs it into the same environment.
INSTALLED := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

.PHONY: flowers test starter drill drill-requests drill-kills drill-killed-searches lint clean

flowers: $(INSTALLED)  ## fine-tune AlexNet on flowers
	$(BIN)/python recipes/finetune_flowers.py

test: $(INSTALLED)  ## the tests
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile

# What docs/results/tiny_imagenet calls `modern`; the same command goes on if it is interrupted.
starter: $(INSTALLED)  ## the starter weights once more, from TINY_IMAGENET=tiny-imagenet-200
	$(BIN)/python recipes/train_imagenet.py --data-dir $(TINY_IMAGENET) --variant modern \
	  --epochs 34 --first-view-size 32 --last-view-size 56 --image-size 72 \
	  --schedule cosine --learning-rate 0.2 --warmup-epochs 1 \
	  --augmentation random_resized_crop --crops 10 --output runs/starter
	$(BIN)/python recipes/make_starter.py runs/starter/model.keras

drill: $(INSTALLED)  ## ten thousand damaged weights files
	$(BIN)/python -m pytest -m drill -s tests/drills/test_mutated_weights.py

drill-requests: $(INSTALLED)  ## a hundred thousand damaged requests to an exported model
	$(BIN)/python -m pytest -m drill -s tests/drills/test_hostile_requests.py

drill-kills: $(INSTALLED)  ## a hundred training runs, killed and started again
	$(BIN)/python -m pytest -m drill -s tests/drills/test_kills.py

drill-killed-searches: $(INSTALLED)  ## searches of fine-tuning settings, killed and gone on with
	$(BIN)/python -m pytest -m drill -s tests/drills/test_killed_searches.py

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
