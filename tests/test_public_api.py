import importlib
import inspect

import pytest

import edgeai


def test_the_written_surface_is_the_visible_surface() -> None:
    assert edgeai.__all__ == sorted(edgeai.__all__)
    assert set(edgeai.__all__) <= set(dir(edgeai))


@pytest.mark.parametrize("name", edgeai.__all__)
def test_every_name_resolves_to_a_documented_object_of_its_room(name: str) -> None:
    found = getattr(edgeai, name)
    assert inspect.getdoc(found)
    assert found is getattr(importlib.import_module(edgeai._HOMES[name]), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'edgeai' has no attribute 'nonsense'"):
        _ = edgeai.nonsense


@pytest.mark.parametrize("name", [name for name in edgeai.__all__ if name[0].islower()])
def test_public_functions_take_at_most_three_positional_arguments_and_no_open_ended_ones(name: str) -> None:
    kinds = [parameter.kind for parameter in inspect.signature(getattr(edgeai, name)).parameters.values()]
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert inspect.Parameter.VAR_POSITIONAL not in kinds
    assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) <= 3


def test_the_version_is_the_distribution_s() -> None:
    from importlib.metadata import version

    assert edgeai.__version__ == version("edgeai")
