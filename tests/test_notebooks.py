"""A notebook narrates: stripped, parameterised once, short cells, more said than done."""

import ast
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
QUESTIONS = "base dataset features difficulty curriculum train evaluate ablations tables checks failures robustness"
NAMES = [f"{number:02d}_{name}" for number, name in enumerate(QUESTIONS.split(" "))]
LONGEST_CELL = 20
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def trees(path):
    return [ast.parse(cell.source) for cell in code_cells(path)]


def test_the_study_has_its_notebooks():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@every_notebook
def test_it_is_stripped(path):
    notebook = nbformat.read(path, as_version=4)
    assert set(notebook.metadata) == {"kernelspec"}, "run `make strip`"
    for cell in code_cells(path):
        assert cell.outputs == [] and cell.execution_count is None, "run `make strip`"
        assert set(cell.metadata) <= {"tags"}, f"cell metadata {dict(cell.metadata)}"


@every_notebook
def test_its_kernel_is_the_one_that_every_environment_has(path):
    assert nbformat.read(path, as_version=4).metadata.kernelspec.name == "python3"


@every_notebook
def test_it_has_one_parameters_cell_of_literals_that_leaves_the_profile_to_params_yaml(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    given = {}
    for statement in ast.parse(tagged[0].source).body:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        given[statement.targets[0].id] = ast.literal_eval(statement.value)
    assert given["profile"] == ""
    assert set(given) in ({"profile"}, {"profile", "variant", "seed"})


@every_notebook
def test_it_defines_nothing_and_nests_no_loop(path):
    blocks = (ast.For, ast.While)
    for tree in trees(path):
        for node in ast.walk(tree):
            assert not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)), (
                f"line {node.lineno}: a definition belongs in irgpt_lib"
            )
            if isinstance(node, blocks):
                inner = [child for child in ast.walk(node) if isinstance(child, blocks) and child is not node]
                assert not inner, f"line {node.lineno}: nested loops belong in irgpt_lib"


@every_notebook
def test_its_code_cells_are_short(path):
    for number, cell in enumerate(code_cells(path)):
        lines = len(cell.source.splitlines())
        assert lines <= LONGEST_CELL, f"code cell {number} has {lines} lines"


@every_notebook
def test_a_third_of_its_cells_is_prose_and_the_first_names_its_question(path):
    cells = nbformat.read(path, as_version=4).cells
    prose = [cell for cell in cells if cell.cell_type == "markdown"]
    assert 3 * len(prose) >= len(cells)
    assert cells[0].cell_type == "markdown"
    heading, _, below = cells[0].source.partition("\n")
    assert heading.startswith("# ") and below.strip()


@every_notebook
def test_it_lists_no_folder(path):
    listing = {"glob", "rglob", "iglob", "iterdir", "listdir", "scandir", "walk"}
    for tree in trees(path):
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not names & listing, "runs come from params.runs()"


@every_notebook
def test_it_imports_no_other_notebook_and_no_machinery(path):
    source = "\n".join(cell.source for cell in code_cells(path))
    assert "%run" not in source and "irgpt_lib.run" not in source and "irgpt_lib.cli" not in source
