"""A module imports only from layers below its own; within one package imports run in no circle.

This file also holds the reading of imports that test_pipeline.py uses.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "irgpt_lib"
LAYERS = [
    {"params", "artifacts", "compat"},
    {"irtd.record"},
    {"tasks", "curriculum"},
    {"irtd", "models"},
    {"training", "evaluation"},
    {"report"},
    {"cli", "run", "grid"},
]
PLUMBING = LAYERS[0]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def module_files(library: Path) -> dict[str, Path]:
    """Every module of the package at `library`, by its dotted name; a package by its own."""
    files = {}
    for file in sorted(library.rglob("*.py")):
        parts = file.relative_to(library.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


def imports_of(source: str, files: dict[str, Path], *, package: str = "") -> set[str]:
    """The modules among `files` that `source` imports, anywhere in it; a leading dot means `package`."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            members = {f"{base}.{alias.name}" for alias in node.names}
            modules = members & files.keys()
            named |= modules if modules == members else modules | {base}
    return named & files.keys()


def graph_of(files: dict[str, Path]) -> dict[str, set[str]]:
    """Module → the modules that it names in its imports."""
    graph = {}
    for name, file in files.items():
        package = name if file.stem == "__init__" else name.rpartition(".")[0]
        graph[name] = imports_of(file.read_text(encoding="utf-8"), files, package=package) - {name}
    return graph


def room(module: str) -> str:
    """`irgpt_lib.models.vlm.model` → `models`; the schema `irtd.record` is a room of its own."""
    inner = module.partition(".")[2]
    return inner if inner in LEVEL else inner.split(".")[0]


FILES = module_files(LIBRARY)
GRAPH = graph_of(FILES)
MODULES = [name for name in FILES if "." in name]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    assert room(module) in LEVEL, f"{module} stands in no layer; the layers are {LAYERS}"
    for imported in GRAPH[module] - {"irgpt_lib"}:
        sideways = room(imported) == room(module) or {room(imported), room(module)} <= PLUMBING
        assert sideways or LEVEL[room(imported)] < LEVEL[room(module)], f"{module} imports {imported}"


def test_no_module_is_part_of_a_circle():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in {"tasks", "curriculum"}])
def test_ideas_know_no_model_and_no_file_format(module):
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    models_and_files = {"transformers", "peft", "open_clip", "timm", "pyarrow", "safetensors", "papermill"}
    assert not {name.split(".")[0] for name in names} & models_and_files


def test_only_the_machinery_knows_papermill():
    users = {name for name, file in FILES.items() if "import papermill" in file.read_text(encoding="utf-8")}
    assert users <= {"irgpt_lib.run"}


def test_no_module_has_a_name_that_says_nothing():
    nameless = {"utils", "util", "helpers", "helper", "misc", "common"}
    assert not [name for name in FILES if name.rpartition(".")[2] in nameless]


def test_every_form_of_import_is_seen(tmp_path):
    package = tmp_path / "lib"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__", "a", "inner/__init__", "inner/b", "inner/c"):
        (package / f"{name}.py").touch()
    files = module_files(package)
    assert set(files) == {"lib", "lib.a", "lib.inner", "lib.inner.b", "lib.inner.c"}
    seen = {
        "import lib.a": {"lib.a"},
        "from lib import a": {"lib.a"},
        "from lib.a import anything": {"lib.a"},
        "from lib.inner import b, function": {"lib.inner.b", "lib.inner"},
        "def f():\n    from .b import x": {"lib.inner.b"},
        "from . import c": {"lib.inner.c"},
        "from .. import a": {"lib.a"},
        "from ..a import x": {"lib.a"},
        "import os": set(),
    }
    assert {source: imports_of(source, files, package="lib.inner") for source in seen} == seen
