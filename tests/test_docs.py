"""What is written about the program is what the program is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import commands, providers
from trainer import recipes

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_page_of_commands_is_what_the_program_prints() -> None:
    checked = subprocess.run([sys.executable, str(ROOT / "scripts" / "help"), "--check"], check=False)
    assert checked.returncode == 0, "docs/commands.md is stale: run scripts/help"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_command_and_recipe_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in commands.names():
        assert f"ec2emo {name}" in readme
    for name in recipes.names():
        assert name in readme


def test_options_in_the_design_are_those_of_the_program() -> None:
    design, help_page = (ROOT / "docs" / n for n in ("design.md", "commands.md"))
    line = design.read_text().split("## The command line")[1].split("```")[1]
    for option in set(re.findall(r"--[a-z-]+", line)):
        assert option in help_page.read_text(), option


def test_files_in_the_designs_tree_exist() -> None:
    tree = (ROOT / "docs" / "design.md").read_text().split("## The tree")[1].split("```")[1]
    folder = ""
    for row in tree.splitlines():
        if head := re.match(r"(\w+/)", row):
            folder = head[1]
        for name in re.findall(r"^  ((?:[\w/]+\.(?:py|sh) ?)+)", row):
            for file in name.split():
                if "NAME" not in file:
                    assert (ROOT / folder / file).exists(), f"{folder}{file}"


def test_every_command_has_help_with_an_example() -> None:
    for name in commands.names():
        text = commands.load(name).command.__doc__ or ""
        assert f"Example: ec2emo {name}" in text
        assert 0 < len(commands.summary(name)) < 62


def test_every_provider_says_how_its_places_are_written() -> None:
    assert providers.names() == ["attached", "ec2", "local"]
    assert all(providers.load(name).HELP for name in providers.names())
