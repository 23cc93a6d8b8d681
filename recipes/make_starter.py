"""Store the convolutions of a net of our own training as the package's starter weights.

\b
python recipes/make_starter.py runs/starter/model.keras
    writes starter.npz into the package and prints the hash that weights/starter.py has to name
"""

from pathlib import Path

import click

from command_line import recipe

_OPTIONS = [
    click.argument("model", type=click.Path(path_type=Path)),
    click.option(
        "--output",
        type=click.Path(path_type=Path),
        help="The .npz file to write.  [default: the one in the package]",
    ),
]


def _given(model: Path, output: Path | None) -> tuple[Path, Path | None]:
    return model, output


@recipe("make_starter", _given, _OPTIONS)
def main(given: tuple[Path, Path | None]) -> None:
    from alexnet_keras.runs import load_model
    from alexnet_keras.weights import starter

    model, output = given
    path = output or starter.PATH
    digest = starter.write_starter(load_model(model), path)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, SHA-256 {digest}")
    if digest != starter.SHA256:
        print("weights/starter.py names another hash; put this one there to ship these weights.")


if __name__ == "__main__":
    main()
