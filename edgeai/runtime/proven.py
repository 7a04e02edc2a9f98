"""How this machine differs from the one that a bundle was proven on, as far as answers may depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeai.machine import machine


def differences(proven_on: Mapping[str, Any], provider: str) -> tuple[str, ...]:
    """A sentence for each; `proven_on` is the manifest's record, `provider` (a short name) what runs the model here.

    What the record does not say is no difference, and a faster or slower CPU of the same features is none.
    """
    here, found = machine(), list[str]()
    features = proven_on.get("features")
    if isinstance(features, list) and (missing := sorted(set(map(str, features)) - set(here.features))):
        found.append(f"proven with CPU features that are missing here: {', '.join(missing)}")
    for what, ours in (("architecture", here.architecture), ("provider", provider)):
        if proven_on.get(what) not in (None, ours):
            found.append(f"proven on {what} {proven_on[what]}, here it is {ours}")
    return tuple(found)
