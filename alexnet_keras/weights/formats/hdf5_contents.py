"""Where an HDF5 file keeps its variables. Run as a program of its own, by `keras_files`.

The HDF5 library crashes or runs forever on some damaged files, which no Python code can catch. So a
process with little time and memory opens the file and prints where its variables are; it reads
none of them. It imports nothing of this package, and so starts in a fraction of a second.

    python hdf5_contents.py DESCRIPTOR START LENGTH

The file is the `LENGTH` bytes from `START` on of the open file of that descriptor. What is printed
is JSON: {"attributes": {name: text}, "variables": [{"path": "layers/conv2d/vars/0", "layer":
"conv1", "dtype": "<f4", "shape": [...], "offset": ..., "size": ...}, ...]}, offsets counted from
`START`; or {"error": why}.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

SECONDS = 10  # of computing; a sound file takes a hundredth of one
MEMORY = 2 << 30  # of addresses, most of which are libraries
MOST_VARIABLES, MOST_DEPTH, MOST_ATTRIBUTES, LONGEST_TEXT = 10_000, 20, 32, 1000


class Part(io.RawIOBase):
    """A part of an open file, as a file."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        self.descriptor, self.start, self.length = descriptor, start, length
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.length)[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self.length - self.at))
        content = os.pread(self.descriptor, wanted, self.start + self.at) if wanted else b""
        buffer[: len(content)] = content
        self.at += len(content)
        return len(content)


def limit() -> None:
    try:
        import resource
    except ImportError:  # no POSIX: the time limit of the process that asks is left
        return
    for what, most in (
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(what, (most, most))
        except (ValueError, OSError):  # macOS admits no limit of addresses
            continue


def contents(file: Any) -> dict[str, Any]:
    """What is printed, see above."""
    import h5py

    variables: list[dict[str, Any]] = []

    def walk(group: Any, path: str, depth: int) -> None:
        if depth > MOST_DEPTH:
            raise ValueError("its groups are nested too deeply")
        for name in group:
            below = f"{path}/{name}" if path else name
            # An optimizer's variables are as large as the net's, and none of them.
            if below.split("/")[0] in ("optimizer", "_metrics"):
                continue
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"its {below[:100]} is elsewhere")
            item = group[name]
            if isinstance(item, h5py.Group):
                walk(item, below, depth + 1)
            elif isinstance(item, h5py.Dataset):
                if len(variables) == MOST_VARIABLES:
                    raise ValueError("it has too many variables")
                variables.append(variable(item, below, group))

    with h5py.File(file, "r") as opened:
        walk(opened, "", 0)
        return {"attributes": texts(opened), "variables": variables}


def variable(dataset: Any, path: str, group: Any) -> dict[str, Any]:
    import h5py

    plist = dataset.id.get_create_plist()
    whole = plist.get_layout() == h5py.h5d.CONTIGUOUS and not plist.get_external_count()
    return {
        "path": path,
        # Keras notes the layer's name on the group `vars` (H5IOStore in saving_lib.py).
        "layer": texts(group).get("name", ""),
        "dtype": element(dataset.id.get_type(), texts(dataset).get("dtype", "")),
        "shape": list(dataset.shape or ()),
        "offset": dataset.id.get_offset() if whole else None,
        "size": dataset.id.get_storage_size(),
    }


def element(kind: Any, noted: str) -> str:
    """The element of a dataset, as NumPy calls it; what is no plain float in the words of HDF5."""
    import h5py

    # h5py takes the next best NumPy type for a float of an unknown make: ask for equality.
    for name in ("F16LE", "F16BE", "F32LE", "F32BE", "F64LE", "F64BE"):
        if kind.equal(getattr(h5py.h5t, f"IEEE_{name}")):
            return f"{'<' if name.endswith('LE') else '>'}f{int(name[1:3]) // 8}"
    if noted == "bfloat16" and kind.get_class() == h5py.h5t.OPAQUE and kind.get_size() == 2:
        return "<bf16"
    return f"HDF5 class {kind.get_class()} of {kind.get_size()} bytes"


def texts(item: Any) -> dict[str, str]:
    """The attributes that are short text."""
    found = {}
    for name in list(item.attrs)[:MOST_ATTRIBUTES]:
        attribute = item.attrs.get_id(name)
        if attribute.shape == () and attribute.dtype.kind in "OS":
            value = item.attrs[name]
            value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            if isinstance(value, str) and len(value) <= LONGEST_TEXT:
                found[name] = value
    return found


def main() -> None:
    limit()
    descriptor, start, length = map(int, sys.argv[1:4])
    try:
        answer = contents(Part(descriptor, start, length))
    # h5py raises exceptions of any kind on damaged files; here all of them mean that.
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:300]}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
