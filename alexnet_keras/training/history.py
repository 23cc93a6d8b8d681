"""A row for each epoch: in memory, in `history.csv` and in TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from alexnet_keras.whole_files import written_beside


class History:
    """The epochs of a run, written down as they end.

    Attributes:
        rows: one mapping an epoch, in order.
    """

    def __init__(self, columns: Sequence[str], csv_path: Path, tensorboard_dir: Path) -> None:
        """Takes the columns of `history.csv`; `phase` and `epoch` come first."""
        self.rows: list[dict[str, Any]] = []
        self._columns = tuple(columns)
        self._csv_path = csv_path
        self._writer = tf.summary.create_file_writer(str(tensorboard_dir))

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds an epoch; `row["epoch"]` counts from 1."""
        self.rows.append(dict(row))
        self._write_csv()
        with self._writer.as_default(step=row["epoch"]):
            for name in self._columns:
                if name not in ("phase", "epoch"):
                    tf.summary.scalar(name, row[name])
        self._writer.flush()

    def restore(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Goes on after the epochs of an interrupted run; TensorBoard has them already."""
        self.rows = [dict(row) for row in rows]
        if rows:
            self._write_csv()

    def _write_csv(self) -> None:
        with written_beside(self._csv_path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self.rows)
