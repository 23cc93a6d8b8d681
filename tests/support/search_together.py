"""A small search; run as a script, by itself for a chief and each of its workers.

    python search_together.py FOLDER '{"trials": 6}'

Prints what was found as JSON. `workers`, `search`, `seconds` and `attempts` may be given too; with
`dies`, the worker of that name is gone in its first trial.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import small_search  # noqa: E402
from alexnet_keras import tuning  # noqa: E402
from alexnet_keras.tuning import oracles, search, tuner  # noqa: E402


def main(folder: Path, options: dict) -> None:
    small_search.make_narrow()
    search.GRACE = 3.0
    # Trials come to the same, however long they take.
    tuner.THAWED_SHARE = oracles.STORING_SHARE = 1.0
    tuner.MOST_ATTEMPTS = options.get("attempts", tuner.MOST_ATTEMPTS)
    folds = small_search.small_folds()
    model = small_search.hypermodel(folds, folder)
    if os.environ.get("KERASTUNER_TUNER_ID") == options.get("dies", "nobody"):
        model.fit = lambda *_, **__: os._exit(9)
    said: list[str] = []
    with tuning.workers(options.get("workers", 2), folder):
        found = tuning.search_settings(
            model,
            folds,
            folder / "search",
            search=options.get("search", "random"),
            seconds=options.get("seconds", 300),
            most_trials=options["trials"],
            say=said.append,
        )
    if found is not None:
        told = {"trials": len(found.outcomes), "settings": found.settings, "said": said}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
