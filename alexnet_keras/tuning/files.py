"""Small files that several processes read while one of them writes, and may be killed."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from alexnet_keras.errors import UserError


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file, whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)


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
        raise UserError(f"{path} is not what a search writes; restore or remove it.")
    return found
