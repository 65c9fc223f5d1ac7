"""Who imports whom, who speaks to which library, and what no line of ours may say."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("orchestrator", "trainer", "remote_env")
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))

# From the top to the bottom: each may import those below it, and those of its own folder.
ORCHESTRATOR = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("assess", "search"),
    ("notify", "tensorboard", "logfile"),
    ("start", "follow", "fetch", "view"),
    ("remote", "data", "landing", "published", "listing", "aliases", "keras_log"),
    ("connect", "float16", "hints", "history"),
    ("providers",),
    ("ssh", "bundle", "stream"),
    ("shell", "pins", "progress"),
    ("store",),
    ("run", "settings", "lease", "health"),
    ("machine",),
    ("errors",),
)
TRAINER = (
    ("__main__", "examine", "pool"),
    ("training",),
    ("artifacts", "recipes"),
    ("data", "scores"),
    ("clips",),
    ("eventlog", "folders", "imports", "layers", "schedule"),
    ("contract",),
)
LAYERS = {"orchestrator": ORCHESTRATOR, "trainer": TRAINER}
LIGHT_HALF = {"contract", "clips", "recipes"}
# Who alone may import a library; a name ending in / is a folder.
ALONE: dict[str, str | tuple[str, ...]] = {
    "boto3": ("orchestrator/providers/ec2/api.py", "remote_env/mirror.py"),
    "botocore": ("orchestrator/providers/ec2/api.py", "remote_env/mirror.py"),
    "cryptography": "orchestrator/providers/ec2/keys.py",
    "fabric": "orchestrator/ssh/",
    "invoke": "orchestrator/ssh/",
    "paramiko": "orchestrator/ssh/",
    "rich": "orchestrator/view/",
    "platformdirs": "orchestrator/store.py",
    "tomlkit": "orchestrator/settings.py",
    "keras": "trainer/",
    "sklearn": "trainer/",
    "tensorflow": "trainer/",
    "tensorboard": "trainer/",
    "matplotlib": "trainer/scores/drawing.py",
    "jinja2": "trainer/scores/report.py",
}
PROJECTS = {"sklearn": "scikit-learn"}  # where the project is not called what is imported
DRAWERS = {"utils", "util", "common", "helpers", "helper", "core", "base", "manager", "misc"}
NEVER = (
    r"AutoAddPolicy",
    r"WarningPolicy",
    r"allow_pickle\s*=\s*True",
    r"shell\s*=\s*True",
    r"StrictHostKeyChecking[\s=]+(no|off|accept-new)",
    r"0\.0\.0\.0/0|::/0",
    r"\b(pickle|marshal|shelve)\.loads?\(",
    r"\b(eval|exec)\(",
    r"os\.system\(",
    r"extractall\(",
    r"verify\s*=\s*False",
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(p): p for p in SOURCES}


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module a file names, wherever in it, `from package import module` as the module."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (w if w in MODULES else str(node.module) for w in whole)


def floor(module: str) -> int:
    """How deep a module lies in its package; 0 is the top."""
    package, place = module.split(".")[:2]
    found = [n for n, layer in enumerate(LAYERS[package]) if place in layer]
    assert found, f"{module} has no place in LAYERS"
    return found[0]


@pytest.mark.parametrize("path", [p for p in SOURCES if name_of(p).split("/")[0] in LAYERS], ids=name_of)
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    if module in LAYERS:
        assert not list(imports(path))
        return
    for imported in imports(path):
        if not imported.startswith(f"{module.split('.')[0]}."):
            continue
        same_folder = imported.split(".")[1] == module.split(".")[1]
        assert same_folder or floor(imported) > floor(module), f"{module} imports {imported}"


def test_nothing_imports_in_circles() -> None:
    graph = {m: {i for i in imports(p) if i in MODULES and i != m} for m, p in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        pytest.fail(" -> ".join(e.args[1]))


def test_the_sides_know_of_each_other_only_what_they_may() -> None:
    for path in SOURCES:
        package = name_of(path).split("/")[0]
        for imported in imports(path):
            of, _, rest = imported.partition(".")
            if of == package or of not in PACKAGES:
                continue
            where = f"{name_of(path)} imports {imported}"
            assert package == "orchestrator", where
            if of == "trainer":
                light = rest.split(".")[0] in LIGHT_HALF or name_of(path) == "orchestrator/bundle.py"
                assert light, where
            else:
                assert name_of(path) == "orchestrator/bundle.py", where


@pytest.mark.parametrize("library", ALONE)
def test_a_library_is_spoken_to_in_one_place(library: str) -> None:
    users = {name_of(p) for p in SOURCES for i in imports(p) if i.split(".")[0] == library}
    assert all(user.startswith(ALONE[library]) for user in users), users


def test_every_library_that_is_imported_is_asked_for() -> None:
    """What only happens to be there goes with the next release of something else, as click did."""
    text = (ROOT / "pyproject.toml").read_text()
    provided = importlib.metadata.packages_distributions()
    for path in SOURCES:
        for imported in imports(path):
            top = imported.split(".")[0]
            if top in sys.stdlib_module_names or top in PACKAGES:
                continue
            names = {d.lower().replace("_", "-") for d in (*provided.get(top, ()), PROJECTS.get(top, top))}
            asked = any(re.search(rf'^    "{re.escape(n)}[\[<>=~;"]', text, re.M | re.I) for n in names)
            assert asked, f"{name_of(path)} imports {top}, which pyproject.toml does not name"


def test_no_module_is_a_drawer() -> None:
    assert not [name_of(p) for p in SOURCES if p.stem in DRAWERS]


def test_no_module_is_too_long_to_read() -> None:
    assert not [name_of(p) for p in SOURCES if len(p.read_text().splitlines()) > 400]


@pytest.mark.parametrize("pattern", NEVER)
def test_no_line_says_what_none_may(pattern: str) -> None:
    scripts = [p for p in (ROOT / "remote_env").iterdir() if p.suffix == ".sh"]
    scripts += [p for p in (ROOT / "scripts").iterdir() if p.is_file()]
    for path in [*SOURCES, *scripts]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not re.search(pattern, line), f"{name_of(path)}:{number}: {line.strip()}"


def test_every_module_says_first_what_it_knows() -> None:
    for path in SOURCES:
        said = ast.get_docstring(ast.parse(path.read_bytes()))
        assert said, name_of(path)


def loaded_by(program: str) -> set[str]:
    """The top modules that are loaded once a program has run."""
    report = "import sys; print('\\n' + ' '.join({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{report}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


HELP = """
from orchestrator import cli
try:
    cli.app()(["--help"], prog_name="ec2emo")
except SystemExit as e:
    assert not e.code
"""
HEAVY = {"boto3", "botocore", "paramiko", "fabric", "invoke", "tensorflow", "keras", "sklearn", "numpy"}


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_by(HELP)
    assert "orchestrator" in loaded
    assert not loaded & (HEAVY | {"rich"})


RUNS = """
from orchestrator import cli
try:
    cli.app()(["runs", "--state", "finished"], prog_name="ec2emo")
except SystemExit as e:
    assert not e.code
"""


def test_a_command_whose_options_are_text_checks_them_without_pydantic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EC2EMO_HOME", str(tmp_path))
    assert not loaded_by(RUNS) & {"pydantic", "pydantic_core"}


def test_a_list_of_runs_needs_no_connection() -> None:
    loaded = loaded_by("from orchestrator import store, progress, follow, connect, remote, providers")
    assert not loaded & (HEAVY - {"numpy"})


def test_the_light_half_of_the_trainer_is_light() -> None:
    assert not loaded_by("import trainer.contract, trainer.eventlog") & (HEAVY | {"rich"})
    recipes = "from trainer import recipes; [recipes.load(n) for n in recipes.names()]"
    light = loaded_by(f"import trainer.clips.demo; {recipes}")
    assert not light & (HEAVY - {"numpy"})
