"""Measure engines: raw samples first, then statistics that say how far they can be trusted.

`benchmark` measures one engine in this process; `measure` compares several, each in its own process.
Knows `Engine` and `Clock`, nothing of ONNX.
"""

from edgeai.bench.measurement import benchmark, measure
from edgeai.bench.report import Report, SubjectResult
from edgeai.bench.subject import Subject
from edgeai.bench.table import rows
from edgeai.bench.workload import Workload

__all__ = ["Report", "Subject", "SubjectResult", "Workload", "benchmark", "measure", "rows"]
