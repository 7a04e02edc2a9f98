"""Models that fit one kind of machine: prepacked weights are laid out for one CPU and one version of ONNX Runtime.

Such a file says in its metadata what it was made for. Elsewhere it might not load, or answer wrongly: it is refused
before ONNX Runtime sees it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from edgeai.errors import ModelFormatError
from edgeai.external import metadata
from edgeai.machine import machine
from edgeai.ort import onnxruntime
from edgeai.runtime.environment import environment_of
from edgeai.runtime.providers import ProviderOptions, refuse_unavailable

MADE_FOR_KEY = "edgeai.made_for"


@dataclass(frozen=True)
class MadeFor:
    """What must be the same where the model runs. `provider` is edgeai's short name.

    `features` are the CPU's, None if they do not matter; `environment` is what else the provider depends on.
    """

    onnxruntime: str
    architecture: str
    features: tuple[str, ...] | None
    provider: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls, provider: str) -> Self:
        found = machine()
        return cls(str(onnxruntime().__version__), found.architecture, found.features, provider)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError or TypeError for what `to_json` has not written."""
        data = json.loads(text)
        features = data["features"]
        return cls(
            **{
                **data,
                "features": None if features is None else tuple(map(str, features)),
                "environment": dict(data.get("environment", {})),
            }
        )

    def differences(self, here: MadeFor) -> list[str]:
        """One phrase for everything that is not the same, this first."""
        found = [
            f"{name} {mine} (here {theirs})"
            for name, mine, theirs in (
                ("ONNX Runtime", self.onnxruntime, here.onnxruntime),
                ("architecture", self.architecture, here.architecture),
                ("execution provider", self.provider, here.provider),
            )
            if mine != theirs
        ]
        same = self.provider == here.provider  # else its environment says nothing
        found += [
            f"{name} {value} (here {here.environment.get(name) or 'none'})"
            for name, value in self.environment.items()
            if same and value != here.environment.get(name)
        ]
        mine, theirs = set(self.features or ()), set(here.features or ())
        lacking = [] if self.features is None else sorted(mine - theirs)
        more = [] if self.features is None else sorted(theirs - mine)
        found += [f"a CPU with {', '.join(lacking)} (not here)"] if lacking else []
        found += [f"a CPU without {', '.join(more)} (here with)"] if more else []
        return found


def made_for(path: str | Path) -> MadeFor | None:
    """What the file says it was made for; None for one that runs anywhere. Raises ModelFormatError if unreadable."""
    text = metadata(path).get(MADE_FOR_KEY)
    try:
        return None if text is None else MadeFor.from_json(text)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFormatError(f"{path}: what it was made for is unreadable ({error})") from error


def refuse_elsewhere(path: str | Path, provider: str, options: ProviderOptions) -> None:
    """Raise ModelFormatError, naming what differs, if the file was made for another machine, version or provider.

    `options` are those that it is to run with: they say on which device. What `provider` has compiled needs it loaded:
    raises ProviderError if it cannot be.
    """
    wanted = made_for(path)
    if wanted is None:
        return
    here = MadeFor.here(provider)
    if wanted.environment and wanted.provider == provider:
        refuse_unavailable(provider)
        here = dataclasses.replace(here, environment=environment_of(provider, options))
    if differences := wanted.differences(here):
        command = "edgeai optimize --target-specific" if wanted.features is not None else "edgeai compile"
        raise ModelFormatError(
            f"{path} was made for {', '.join(differences)}",
            hint=f"make it again here from the portable model ({command}), or load that one",
        )
