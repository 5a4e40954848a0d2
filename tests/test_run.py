"""One notebook, executed: the right interpreter, stable bytes, and nothing half made."""

import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from irgpt_lib import run
from irgpt_lib.run import RunError, declared_parameters, notebook_path, parse_assignments, run_stem, stable

DEFAULTS = {"profile": "", "variant": "cl", "seed": 0, "rate": 1.0}


def study(folder: Path, *sources: str) -> Path:
    """A study of one notebook, `05_train`, that declares profile, variant and seed."""
    parameters = new_code_cell('profile = ""\nvariant = "cl"\nseed = 0', metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# Train"), parameters, *map(new_code_cell, sources)]
    (folder / "notebooks").mkdir()
    (folder / "dvc.yaml").write_text("stages: {}\n")
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), folder / "notebooks" / "05_train.ipynb")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IRGPT_ARTIFACTS", raising=False)
    for name, value in run._FIXED_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return tmp_path


def test_a_value_takes_the_type_of_its_default():
    given = parse_assignments(["seed=3", "variant=no", "rate=2", "profile="], DEFAULTS, "05_train.ipynb")
    assert given == {"profile": "", "variant": "no", "seed": 3, "rate": 2.0}
    assert list(given) == ["profile", "variant", "seed", "rate"]
    assert type(given["rate"]) is float


@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        (["sed=0"], "no parameter 'sed'; it takes profile='', variant='cl', seed=0"),
        (["seed"], "'seed' is not name=value"),
        (["seed=cl"], "must be int"),
        (["seed=true"], "must be int"),
        (["seed=[1"], "not valid YAML"),
        (["seed=0", "seed=1"], "given twice"),
    ],
)
def test_a_wrong_assignment_is_refused_with_what_exists(assignments, says):
    with pytest.raises(RunError) as refusal:
        parse_assignments(assignments, DEFAULTS, "05_train.ipynb")
    assert says in str(refusal.value)


def test_an_unknown_notebook_is_refused_with_those_that_exist(here):
    study(here)
    with pytest.raises(RunError, match="no notebook '05_trian' in .*; there are: 05_train"):
        notebook_path(here / "notebooks", "05_trian")
    assert run.main("05_trian") == 2
    assert run.main("05_train", "sed=0") == 2


def test_parameters_are_read_in_order_with_their_defaults(here):
    study(here)
    declared = declared_parameters(here / "notebooks" / "05_train.ipynb")
    assert list(declared.items()) == [("profile", ""), ("variant", "cl"), ("seed", 0)]


def test_runs_are_told_apart_by_variant_and_seed_not_by_profile():
    assert run_stem("05_train", {"profile": "tiny", "variant": "cl", "seed": 0}) == "05_train-cl-0"
    assert run_stem("01_dataset", {"profile": "tiny"}) == "01_dataset"


def test_chunks_addresses_progress_and_ids_leave_no_trace():
    def executed(chunks, address, bar):
        cell = new_code_cell("x")
        cell.outputs = [new_output("stream", name="stdout", text=text) for text in chunks]
        cell.outputs.insert(1, new_output("stream", name="stderr", text=bar))
        shown = {"text/plain": f"<Axes at {address}>"}
        cell.outputs.append(new_output("execute_result", shown, execution_count=1))
        return new_notebook(cells=[cell], metadata={"papermill": {"duration": len(bar)}})

    once = stable(executed(["a", "b\n"], "0x7f01", "50%"))
    again = stable(executed(["a", "b", "\n"], "0x7fff02", "99%|#"))
    assert once == again
    assert once.cells[0].outputs[0].text == "ab\n"
    assert once.cells[0].outputs[1].data["text/plain"] == "<Axes at 0x0>"
    nbformat.validate(once)


def test_a_hexadecimal_result_is_not_taken_for_an_address():
    cell = new_code_cell("hex(255)")
    cell.outputs = [new_output("execute_result", {"text/plain": "'0xff'"}, execution_count=1)]
    assert stable(new_notebook(cells=[cell])).cells[0].outputs[0].data["text/plain"] == "'0xff'"


def test_a_run_uses_this_interpreter_and_has_the_same_bytes_twice(here, monkeypatch, capfd):
    foreign = here / "elsewhere" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    spec = {"argv": ["no-such-python", "-f", "{connection_file}"], "display_name": "x", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(foreign.parents[1]))
    study(
        here,
        "import os, sys\nfrom pathlib import Path\nprint('half way', file=sys.stderr)",
        "print(sys.executable, Path.cwd(), os.environ['PYTHONHASHSEED'], variant, seed + 1)\nobject()",
    )

    assert run.main("05_train", "profile=smoke", "variant=cl", "seed=1") == 0
    target = here / "artifacts" / "executed" / "05_train-cl-1.ipynb"
    first = target.read_bytes()
    printed = nbformat.reads(first.decode(), 4).cells[-1].outputs[0].text
    assert printed == f"{sys.executable} {here} 0 cl 2\n"
    cost = json.loads((here / "artifacts" / "costs" / "05_train-cl-1.json").read_text())
    assert cost["parameters"] == {"profile": "smoke", "variant": "cl", "seed": 1}
    assert cost["wall_s"] > 0 and cost["cpu_s"] > 0 and cost["peak_mb"] > 10
    terminal = capfd.readouterr()
    assert "05_train profile=smoke variant=cl seed=1: started" in terminal.out
    assert "done in" in terminal.out and "half way" in terminal.err

    assert run.main("05_train", "profile=smoke", "variant=cl", "seed=1") == 0
    assert target.read_bytes() == first


def test_a_failing_cell_leaves_the_failed_notebook_and_no_executed_one(here, capfd):
    study(here, "print('before')", "1 / 0")
    old = here / "artifacts" / "executed" / "05_train.ipynb"
    old.parent.mkdir(parents=True)
    old.write_text("of an earlier run")
    assert run.main("05_train") == 1
    assert not old.exists()
    failed = nbformat.read(here / "artifacts" / "failed" / "05_train.ipynb", 4)
    outputs = [output for cell in failed.cells for output in cell.get("outputs", [])]
    assert [output.ename for output in outputs if output.output_type == "error"] == ["ZeroDivisionError"]
    shown = capfd.readouterr().err
    assert "ZeroDivisionError: division by zero" in shown and str(here / "artifacts" / "failed") in shown
    assert not (here / "artifacts" / "costs").exists()


def test_a_kernel_that_dies_is_reported_and_leaves_no_executed_notebook(here, capfd):
    study(here, "import os\nos._exit(9)")
    assert run.main("05_train") == 1
    assert not (here / "artifacts" / "executed" / "05_train.ipynb").exists()
    assert "its kernel died" in capfd.readouterr().err
