import inspect
import pickle

import pytest

from edgeai import errors

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.EdgeAIError)]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_class_stands_in_the_printed_tree_with_its_exit_code(kind: type[errors.EdgeAIError]) -> None:
    line = next(line for line in (errors.__doc__ or "").splitlines() if f" {kind.__name__} " in line)
    assert f" {kind.exit_code}  " in line


def test_text_is_one_line_with_the_hint_behind_the_message() -> None:
    error = errors.InputError("input x:\n  wrong rank", hint="use rank 2")
    assert str(error) == "input x: wrong rank (use rank 2)"
    assert str(errors.InputError("plain")) == "plain"


def test_an_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(errors.ProviderError("no cuda", hint="install it")))
    assert type(error) is errors.ProviderError
    assert (error.message, error.hint) == ("no cuda", "install it")
