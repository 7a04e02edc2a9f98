"""What can be tried on a target, and which of it to keep."""

from edgeai.tuning.candidates import BASELINE, Plan, Point
from edgeai.tuning.choice import Choice, Measured, choose
from edgeai.tuning.objective import OBJECTIVES
from edgeai.tuning.space import Space
from edgeai.tuning.tuner import TuneReport, tune

__all__ = [
    "BASELINE",
    "OBJECTIVES",
    "Choice",
    "Measured",
    "Plan",
    "Point",
    "Space",
    "TuneReport",
    "choose",
    "tune",
]
