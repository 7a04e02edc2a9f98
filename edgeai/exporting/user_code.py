"""A user's own Python: `file.py:Class`, `file.py:factory` or `pkg.mod:name` becomes a module with its weights."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from edgeai.errors import IntegrityError, MissingDependencyError, SourceError
from edgeai.frames import user_line


def load_code(place: str) -> ModuleType:
    """Import a `.py` file by path, or an installed module by name. Raises SourceError naming file and line."""
    if not place.endswith(".py"):
        with _in_user_code(place):
            return importlib.import_module(place)
    path = Path(place)
    if not path.is_file():
        raise SourceError(f"{place}: no such file")
    name = f"edgeai_source_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a .py suffix always has a loader
    code = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a class's module up by name; siblings are found as beside a script.
    sys.modules[name] = code
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        with _in_user_code(place):
            spec.loader.exec_module(code)
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return code


def build(code: ModuleType, name: str, init: Mapping[str, Any] | None, *, seed: int) -> nn.Module:
    """Make the module that `name` stands for: a class or function is called with `init`, an instance is taken.

    Random weights are drawn from `seed`. Raises SourceError if there is no such thing or it is not a module.
    """
    shown = f"{Path(getattr(code, '__file__', None) or code.__name__).name}:{name}"
    thing = getattr(code, name, None)
    if thing is None:
        made = [key for key, value in vars(code).items() if inspect.isclass(value) and issubclass(value, nn.Module)]
        own = [key for key in made if vars(code)[key].__module__ == code.__name__]
        raise SourceError(f"{shown}: no such name", hint=f"it has {', '.join(own)}" if own else "")
    if isinstance(thing, nn.Module):
        if init:
            raise SourceError(f"{shown} is an instance already, so init arguments cannot be given to it")
        return thing
    if not callable(thing):
        raise SourceError(f"{shown} is a {type(thing).__name__}, neither a module nor something that makes one")
    with torch.random.fork_rng(devices=[]), _in_user_code(shown):
        torch.manual_seed(seed)
        made_module = thing(**(init or {}))
    if not isinstance(made_module, nn.Module):
        raise SourceError(f"{shown} gives a {type(made_module).__name__}, not a torch.nn.Module")
    return made_module


def told(module: nn.Module, code: ModuleType, name: str) -> Any:
    """What the user says about the inputs: an attribute or method of the class, or a name beside it; else None."""
    said = getattr(module, name, None)
    if said is None:
        said = getattr(code, name, None)
    if not callable(said):
        return said
    with _in_user_code(f"{name}()"):
        return said()


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Read a safetensors file, or a state dict by `torch.load(weights_only=True)`, into `module`.

    Raises SourceError if it cannot be read, IntegrityError naming every key that is missing, unexpected or of
    another shape; the module is then unchanged.
    """
    path = Path(path)
    if not path.is_file():
        raise SourceError(f"weights {path}: no such file")
    state = _read_state(path)
    expected = module.state_dict()
    wrong = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": sorted(k for k in expected.keys() & state.keys() if expected[k].shape != state[k].shape),
    }
    if any(wrong.values()):
        found = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in wrong.items() if keys)
        raise IntegrityError(f"weights {path} do not fit {type(module).__name__}: {found}")
    module.load_state_dict(state)


def _read_state(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            state: Any = _safetensors(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except MissingDependencyError:
        raise
    except Exception as error:  # torch, pickle, zip and safetensors each have errors of their own
        first = (str(error).splitlines() or [""])[0]
        raise SourceError(f"weights {path} cannot be read: {type(error).__name__}: {first}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SourceError(f"weights {path} are not a state dict (names to tensors)")
    return state


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingDependencyError("safetensors is not installed", hint="pip install safetensors") from error
    state: Mapping[str, Tensor] = load_file(path)
    return state


@contextmanager
def _in_user_code(what: str) -> Iterator[None]:
    """Turn whatever a user's code raises into one line that names the code's own file and line."""
    try:
        yield
    except Exception as error:
        raise SourceError(f"{what}{user_line(error)} fails: {type(error).__name__}: {error}") from error
