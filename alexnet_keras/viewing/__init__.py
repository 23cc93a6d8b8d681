"""Pictures of nets and runs: the table of a net's layers, and the report page of a run."""

from alexnet_keras.viewing.cautions import cautions
from alexnet_keras.viewing.comparison import Comparison, TrainedNet
from alexnet_keras.viewing.gather import compare_with_scratch, gather_report
from alexnet_keras.viewing.progress import Progress, Silent, final_line
from alexnet_keras.viewing.report import (
    ConfusedClasses,
    Mistake,
    Report,
    render_report,
    write_report,
)
from alexnet_keras.viewing.summary import layer_table, print_summary

__all__ = [
    "Comparison",
    "ConfusedClasses",
    "Mistake",
    "Progress",
    "Report",
    "Silent",
    "TrainedNet",
    "cautions",
    "compare_with_scratch",
    "final_line",
    "gather_report",
    "layer_table",
    "print_summary",
    "render_report",
    "write_report",
]
