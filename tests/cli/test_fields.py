from dataclasses import dataclass
from typing import Literal

import click
import pytest

from edgeai.cli.fields import construct, options_of
from edgeai.errors import UsageError


@dataclass(frozen=True)
class Dial:
    level: int = 3
    loud: bool = True
    kind: Literal["a", "b"] = "a"
    limit: float | None = None
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Switch:
    loud: bool = False


KINDS = {"dial": Dial, "switch": Switch}


def parse(*arguments: str) -> dict[str, object]:
    command = click.Command("x", params=list(options_of(KINDS)))
    return command.make_context("x", list(arguments)).params


def test_what_is_not_given_keeps_its_default() -> None:
    assert construct(KINDS, "dial", parse()) == Dial()
    assert construct(KINDS, "switch", parse()) == Switch()


def test_what_is_given_arrives_with_its_type() -> None:
    given = parse("--level", "5", "--no-loud", "--kind", "b", "--limit", "0.5", "--skip", "x", "--skip", "y")
    assert construct(KINDS, "dial", given) == Dial(5, False, "b", 0.5, ("x", "y"))


def test_an_option_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match=r"switch has no option --level \(its options: --loud\)"):
        construct(KINDS, "switch", parse("--level", "1"))


def test_the_help_tells_who_has_the_option_and_its_default() -> None:
    texts = {option.name: option.help for option in options_of(KINDS)}
    assert texts["loud"] == "Defaults: dial: True, switch: False."
    assert texts["limit"] == "Defaults: dial: by the target."
    assert texts["skip"] == "Defaults: dial: none."
