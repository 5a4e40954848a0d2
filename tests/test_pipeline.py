"""dvc.yaml says what each notebook needs; these tests hold it to what the notebook imports and loads.

`python tests/test_pipeline.py` prints the right `.py` dependencies of every notebook, to paste into dvc.yaml.
"""

import ast
import re
import subprocess
import sys
from itertools import product

import nbformat
import pytest
from ruamel.yaml import YAML
from test_layers import FILES, GRAPH, PLUMBING, ROOT, imports_of, room

# the base depends on its section's values through this file, not on the profile's name
RESOLVED = "artifacts/profile/base.json"
STAGE_NAMES = [
    "profile",
    "base",
    "dataset",
    "features",
    "difficulty",
    "curriculum",
    "train",
    "evaluate",
    "grid",
    "ablations",
    "tables",
    "checks",
    "failures",
    "robustness",
    "report",
]


def read_yaml(name):
    """The file's content; nothing where it is empty or missing, which the tests of the content report."""
    file = ROOT / name
    return (YAML(typ="safe").load(file) or {}) if file.is_file() else {}


STAGES = read_yaml("dvc.yaml").get("stages", {})
PARAMS = read_yaml("params.yaml")
NOTEBOOK_COMMAND = re.compile(r"python -m irgpt_lib\.run (\w+)((?: \w+=\S+)*)$")
MODULE_COMMAND = re.compile(r"python -m (irgpt_lib[\w.]+)( [\w=${}]+)*$")
# what the grid runs for each of its rows
OF_A_ROW = ("05_train", "06_evaluate")
every_stage = pytest.mark.parametrize("name", STAGES)


def command(name):
    return " ".join(STAGES[name]["cmd"].split())


def notebook_of(name):
    """The notebook that the stage runs, or None for a stage that runs a module."""
    found = NOTEBOOK_COMMAND.match(command(name))
    return found[1] if found else None


def notebook_source(stem):
    cells = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def source_of(name):
    """The code that the stage starts with: the notebook's cells, or the module."""
    stem = notebook_of(name)
    if stem:
        return notebook_source(stem)
    source = FILES[MODULE_COMMAND.match(command(name))[1]].read_text(encoding="utf-8")
    return "\n".join([source, *map(notebook_source, OF_A_ROW)]) if name == "grid" else source


def says_nothing(module):
    """An `__init__` of no more than a docstring cannot change a result."""
    file = FILES[module]
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return file.stem == "__init__" and all(isinstance(statement, ast.Expr) for statement in body)


def needed_modules(first):
    """`first`, all that they import, and the packages in which those stand; without the plumbing."""
    found, waiting = set(), set(first)
    while waiting:
        module = waiting.pop()
        found.add(module)
        parents = {module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)}
        waiting |= (GRAPH[module] | parents) - found
    return {module for module in found if room(module) not in PLUMBING and not says_nothing(module)}


def library_deps(source, *first):
    """The `.py` files that a stage that runs `source` depends on, sorted."""
    modules = needed_modules({*imports_of(source, FILES), *first})
    return sorted(FILES[module].relative_to(ROOT).as_posix() for module in modules)


def called_on_params(source, function):
    """The calls of `params.<function>(...)` in `source`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"params.{function}":
            yield node


def sections_read(source):
    calls = called_on_params(source, "load")
    found = {argument.value for call in calls for argument in call.args if isinstance(argument, ast.Constant)}
    return sorted(found | ({"model"} if "paper_tables.untrained(" in source else set()))


def of_one_run(name):
    """The variant and the seed of a notebook that is executed for one run, as dvc.yaml writes them."""
    return re.findall(r"(?:variant|seed)=(\S+)", command(name)) if "matrix" not in STAGES[name] else []


def expected_params(name):
    """The keys that DVC must watch: the sections that the stage reads, wherever params.yaml states them."""
    source = source_of(name)
    if name == "profile":
        return ["common.base", "profile", "profiles.${profile}.base"]
    if RESOLVED in STAGES[name].get("deps", []):
        assert sections_read(source) == ["base"]
        return []
    keys = set()
    for section in sections_read(source):
        if section in PARAMS["common"]:
            keys.add(f"common.{section}")
        if any(section in (profile or {}) for profile in PARAMS["profiles"].values()):
            keys.add(f"profiles.${{profile}}.{section}")
    if "matrix" in STAGES[name]:
        keys.add("variants.${item.variant}")
    keys |= {f"variants.{variant}" for variant in of_one_run(name)[:1]}
    blocks = {argument.value for call in called_on_params(source, "runs") for argument in call.args}
    if any(not call.args for call in called_on_params(source, "runs")):
        blocks.add("variants")
    if "gathering.all_predictions(" in source:
        blocks |= {"variants", "grid"}
    return sorted(keys | blocks | ({"seeds"} if blocks else set()))


def outputs(name):
    """path → options of everything that the stage writes."""
    written = {}
    for kind in ("outs", "metrics", "plots"):
        for entry in STAGES[name].get(kind, []):
            written |= entry if isinstance(entry, dict) else {entry: {}}
    return written


@every_stage
def test_deps_are_the_modules_that_the_stage_imports(name):
    deps = [dep for dep in STAGES[name].get("deps", []) if dep.endswith(".py")]
    started = [] if notebook_of(name) else [MODULE_COMMAND.match(command(name))[1]]
    assert sorted(deps) == library_deps(source_of(name), *started)


@every_stage
def test_params_are_the_sections_that_the_stage_loads(name):
    assert sorted(STAGES[name].get("params", [])) == expected_params(name)


@every_stage
def test_a_section_of_one_profile_is_one_of_all(name):
    """`profiles.${profile}.x` must name something whichever profile is chosen."""
    for section in sections_read(source_of(name)):
        having = {key for key, profile in PARAMS["profiles"].items() if section in (profile or {})}
        assert having in (set(), set(PARAMS["profiles"])), f"{section} stands only in {sorted(having)}"


@every_stage
def test_a_stage_is_named_after_its_notebook_and_depends_on_it(name):
    stem = notebook_of(name)
    if stem is None:
        assert MODULE_COMMAND.match(command(name)), f"neither a notebook nor a module: {command(name)}"
        return
    assert stem.partition("_")[2] == name
    assert f"notebooks/{stem}.ipynb" in STAGES[name]["deps"]


@every_stage
def test_the_command_passes_profile_and_in_a_matrix_variant_and_seed(name):
    if notebook_of(name) is None:
        return
    given = NOTEBOOK_COMMAND.match(command(name))[2].split()
    run = ["variant=${item.variant}", "seed=${item.seed}"] if "matrix" in STAGES[name] else []
    if of_one_run(name):
        run = ["variant=cl", "seed=${seeds[0]}"]  # params.shown_run()
    dial = [] if RESOLVED in STAGES[name]["deps"] else ["profile=${profile}"]
    assert given == [*dial, *run]


@every_stage
def test_all_that_is_written_lies_in_artifacts(name):
    outside = [path for path in outputs(name) if not path.startswith("artifacts/") or ".." in path]
    assert outputs(name) and not outside


@every_stage
def test_the_executed_notebook_is_kept_in_git(name):
    stem = notebook_of(name)
    if stem is None:
        return
    run = "-${item.variant}-${item.seed}" if "matrix" in STAGES[name] else "".join(f"-{v}" for v in of_one_run(name))
    assert outputs(name)[f"artifacts/executed/{stem}{run}.ipynb"]["cache"] is False


@every_stage
def test_each_artifact_that_is_read_is_written_by_another_stage(name):
    others = [path.partition("$")[0] for other in STAGES if other != name for path in outputs(other)]
    for dep in STAGES[name].get("deps", []):
        if dep.startswith("artifacts/"):
            fixed = dep.partition("$")[0]
            assert any(path.startswith(fixed) or fixed.startswith(path) for path in others), dep


@pytest.mark.parametrize("name", [name for name, stage in STAGES.items() if "matrix" in stage])
def test_a_matrix_runs_every_variant_and_seed(name):
    assert list(STAGES[name]["matrix"].items()) == [("variant", "${variants}"), ("seed", "${seeds}")]


def test_runs_are_enumerated_in_the_order_of_the_matrix(monkeypatch):
    from irgpt_lib import params

    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("IRGPT_PROFILE", raising=False)
    assert list(params.runs()) == list(product(PARAMS["variants"], PARAMS["seeds"]))


def test_dvc_reads_the_graph_and_makes_one_stage_of_each_run():
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    runs = [f"{variant}-{seed}" for variant, seed in product(PARAMS["variants"], PARAMS["seeds"])]
    assert [name for name in listed if name.startswith("train@")] == [f"train@{run}" for run in runs]


def test_the_study_has_its_stages_in_order():
    assert list(STAGES) == STAGE_NAMES


def print_deps():
    """The `.py` dependencies of every notebook and of the report, as dvc.yaml writes them."""
    entries = {file.stem: notebook_source(file.stem) for file in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    deps = {stem: library_deps(source) for stem, source in entries.items()}
    deps["grid"] = library_deps(source_of("grid"), "irgpt_lib.grid")
    deps["report"] = library_deps("", "irgpt_lib.report.site")
    for entry, files in deps.items():
        print(f"{entry}:", *(f"      - {file}" for file in files), sep="\n")


if __name__ == "__main__":
    print_deps()
