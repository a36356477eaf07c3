"""How good predictions are: scores, intervals, calibration, mistakes, and the table they can be recomputed from. NumPy only."""

from regraft.evaluate.calibration import ECE_BINS, ReliabilityBin, expected_calibration_error, reliability
from regraft.evaluate.interval import bootstrap, wilson
from regraft.evaluate.macro_f1 import macro_f1_interval
from regraft.evaluate.metrics import score
from regraft.evaluate.mistakes import Mistake, mistakes
from regraft.evaluate.probability import probabilities
from regraft.evaluate.table import read_predictions, write_predictions

__all__ = [
    "ECE_BINS",
    "Mistake",
    "ReliabilityBin",
    "bootstrap",
    "expected_calibration_error",
    "macro_f1_interval",
    "mistakes",
    "probabilities",
    "read_predictions",
    "reliability",
    "score",
    "wilson",
    "write_predictions",
]
