"""What will run as integers on a target, what will not, and why: from the graph, not from what was asked for."""

from edgeai.linting.lint import lint
from edgeai.linting.report import Caution, LintReport, Row
from edgeai.linting.targets import TARGETS

__all__ = ["TARGETS", "Caution", "LintReport", "Row", "lint"]
