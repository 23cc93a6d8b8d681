"""Show the outputs of frozen layers that fine-tuning keeps between runs, and clear them.

\b
python recipes/feature_cache.py
    each set: of which layers, how many outputs, how large, when last used
python recipes/feature_cache.py --clear
    drops all that no run has open
"""

from pathlib import Path

import click

from command_line import recipe

_OPTIONS = [
    click.option("--clear", is_flag=True, help="Drop every set that no run has open."),
    click.option(
        "--folder",
        type=click.Path(path_type=Path),
        help="Where they are.  [default: features in KERAS_HOME, or in ~/.keras]",
    ),
]


def _given(clear: bool, folder: Path | None) -> tuple[bool, Path | None]:
    return clear, folder


@recipe("feature_cache", _given, _OPTIONS)
def main(given: tuple[bool, Path | None]) -> None:
    from datetime import datetime

    from alexnet_keras.transfer import FeatureCache

    clear, folder = given
    cache = FeatureCache(folder)
    if clear:
        freed, left = cache.clear()
        print(f"{freed / 1e6:,.1f} MB freed" + (f"; {left} in use stay." if left else "."))
        return
    sets = cache.sets()
    for entry in sets:
        used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
        print(f"{entry.size / 1e6:9,.1f} MB  {used}  {entry.outputs:9,}  {entry.description}")
    total = sum(entry.size for entry in sets)
    print(f"{total / 1e6:9,.1f} MB of {cache.most_bytes / 1e6:,.0f} MB in {cache.folder}")


if __name__ == "__main__":
    main()
