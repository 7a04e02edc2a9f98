"""Shared models, small enough to make once a session."""

from __future__ import annotations

import os

# Two cores serve the whole suite: spinning or oversubscribed pools would make every test wait for every other.
os.environ.setdefault("OMP_NUM_THREADS", "2")
