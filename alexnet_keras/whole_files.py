"""Files that are there whole or not at all, whoever reads or kills the process that writes them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alexnet_keras.errors import UserError


@contextmanager
def written_beside(path: Path, *, synced: bool = False, several: bool = False) -> Iterator[Path]:
    """The path of a file to write, which takes the name `path` when all went well, or goes.

    Args:
        synced: whether it is on the disk, power cut or not, before it takes the name.
        several: whether other processes or threads may write the same at this moment; the last of
            them wins.
    """
    mark = f".{os.getpid()}.{threading.get_ident()}" if several else ""
    part = path.with_name(f".{path.name}{mark}.part")
    try:
        yield part
        if synced:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()


def write_json(
    path: Path, content: dict[str, Any], default: Callable[[Any], Any] | None = None
) -> None:
    """Writes a file of JSON that several processes may write and read.

    Args:
        default: what makes JSON's types of others.
    """
    text = json.dumps(content, indent=2, default=default) + "\n"
    with written_beside(path, several=True) as part:
        part.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file of `write_json`; empty if there is none.

    Raises:
        UserError: it is none of these.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); restore or remove it.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not what was written there; restore or remove it.")
    return found
