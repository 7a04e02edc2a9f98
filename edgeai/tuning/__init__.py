"""What can be tried on a target, and which of it to keep."""

from edgeai.tuning.candidates import BASELINE, OPTIMIZED, Candidate, candidates
from edgeai.tuning.choice import Choice, Measured, choose

__all__ = ["BASELINE", "OPTIMIZED", "Candidate", "Choice", "Measured", "candidates", "choose"]
