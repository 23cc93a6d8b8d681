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
from alexnet_keras.viewing.search_progress import TrialProgress, tell_found
from alexnet_keras.viewing.search_report import (
    FinalistRow,
    SearchReport,
    gather_search_report,
    write_search_report,
)
from alexnet_keras.viewing.summary import layer_table, print_summary

__all__ = [
    "Comparison",
    "ConfusedClasses",
    "FinalistRow",
    "Mistake",
    "Progress",
    "Report",
    "SearchReport",
    "Silent",
    "TrainedNet",
    "TrialProgress",
    "cautions",
    "compare_with_scratch",
    "final_line",
    "gather_report",
    "gather_search_report",
    "layer_table",
    "print_summary",
    "render_report",
    "tell_found",
    "write_report",
    "write_search_report",
]
