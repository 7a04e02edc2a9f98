"""Every error that edgeai raises on purpose, each with its exit code.

    EdgeAIError                      1  anything below
    ├── UsageError                   2  the request itself is wrong: an option, a name, a combination
    │   ├── SourceError              2  what should be exported or built was not found or is not a module
    │   └── ExistsError              2  the output is already there and --overwrite was not given
    ├── DataError                    1  samples or data sets are missing, malformed or overlap
    ├── MissingDependencyError       1  a package is not installed; the hint is the command that installs it
    ├── ModelFormatError             1  the file is not a model that can be read
    ├── UnsafePathError              1  a file refers to something outside its own directory
    ├── IntegrityError               1  a file is not what its manifest says
    ├── ResourceLimitError           1  a file asks for more than a sane model needs
    ├── UntrustedCodeError           1  a file would run code that nobody vouched for
    ├── InputError                   1  a value given to a session does not fit its signature
    ├── NonFiniteError               1  an output holds NaN or infinity, and the settings refuse that
    ├── DeadlineError                1  a run was not done in its time
    ├── OverloadError                1  more is asked for at once than there is room for
    ├── ProviderError                1  the execution provider asked for does not run here
    ├── ExportError                  1  a module could not be captured
    ├── OptimizationError            1  a graph pass failed
    ├── QuantizationError            1  a recipe cannot be applied to this model
    ├── VerificationError            1  two models disagree
    ├── BenchmarkError               1  a measurement could not be made
    ├── TrainingError                1  training did not converge or cannot resume
    └── StorageError                 1  the disk said no

An error is one sentence that says what was wrong and where, and a hint that says what to do.
Anything else that escapes is a bug and keeps its traceback (exit code 5).
"""

from __future__ import annotations

from typing import ClassVar


class EdgeAIError(Exception):
    """Root of the tree. `str(error)` is one line: the message, then the hint."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())
        super().__init__(f"{self.message} ({self.hint})" if self.hint else self.message)

    def __reduce__(
        self,
    ) -> tuple[object, ...]:  # keyword-only hint: the default would lose it between processes
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[EdgeAIError], message: str, hint: str) -> EdgeAIError:
    return kind(message, hint=hint)


class UsageError(EdgeAIError):
    """The request itself is wrong."""

    exit_code = 2


class SourceError(UsageError):
    """What should be exported or built was not found, or is not a module."""


class ExistsError(UsageError):
    """The output is already there and overwriting was not asked for."""


class DataError(EdgeAIError):
    """Samples or data sets are missing, malformed or overlap."""


class MissingDependencyError(EdgeAIError):
    """A package is not installed; the hint is the command that installs it."""


class ModelFormatError(EdgeAIError):
    """The file is not a model that can be read."""


class UnsafePathError(EdgeAIError):
    """A file refers to something outside its own directory."""


class IntegrityError(EdgeAIError):
    """A file is not what its manifest says."""


class ResourceLimitError(EdgeAIError):
    """A file asks for more than a sane model needs."""


class UntrustedCodeError(EdgeAIError):
    """A file would run code that nobody vouched for."""


class InputError(EdgeAIError):
    """A value given to a session does not fit its signature."""


class NonFiniteError(EdgeAIError):
    """An output holds NaN or infinity, and the settings refuse that."""


class DeadlineError(EdgeAIError):
    """A run was not done in its time."""


class OverloadError(EdgeAIError):
    """More is asked for at once than there is room for."""


class ProviderError(EdgeAIError):
    """The execution provider asked for does not run here."""


class ExportError(EdgeAIError):
    """A module could not be captured."""


class OptimizationError(EdgeAIError):
    """A graph pass failed."""


class QuantizationError(EdgeAIError):
    """A recipe cannot be applied to this model."""


class VerificationError(EdgeAIError):
    """Two models disagree."""


class BenchmarkError(EdgeAIError):
    """A measurement could not be made."""


class TrainingError(EdgeAIError):
    """Training did not converge or cannot resume."""


class StorageError(EdgeAIError):
    """The disk said no."""
