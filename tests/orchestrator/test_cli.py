"""The words of a command line: what is taken as it is, and what is refused."""

from __future__ import annotations

import pytest

from orchestrator import cli, commands


def exit_code(*argv: str) -> object:
    with pytest.raises(SystemExit) as left:
        cli.app()(list(argv), prog_name="ec2emo")
    return left.value.code


@pytest.mark.parametrize("name", commands.names())
def test_every_command_tells_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not exit_code(name, "--help")
    assert f"Usage: ec2emo {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ("deploy", "v9_attention", "--seed", "1.5"),
        ("deploy", "v9_attention", "--max-hours", "long"),
        ("monitor", "--lines", "few"),
        ("machines", "eat"),
        ("stop", "one", "--on"),
    ],
    ids=" ".join,
)
def test_what_has_not_its_type_is_a_bad_request(argv: tuple[str, ...]) -> None:
    assert exit_code(*argv) == 2


@pytest.mark.parametrize("argv", [("deploy",), ("data", "check"), ("compare",)], ids=" ".join)
def test_what_is_required_is_missed(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*argv) == 2
    assert "Missing argument" in capsys.readouterr().err
