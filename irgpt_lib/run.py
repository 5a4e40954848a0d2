"""Run one notebook of the study: `python -m irgpt_lib.run 05_train profile=tiny variant=cl seed=0`.

Papermill executes a copy with the given parameters in the interpreter that runs this module. Progress bars
and prints appear in the terminal as they come; the executed notebook keeps the results without what differs
from run to run.
"""

import ast
import json
import logging
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from irgpt_lib import artifacts

Value = str | int | float | bool | list | dict | None

# the same arithmetic and the same order of sets in every run, and no fork under a tokenizer's own threads
_FIXED_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    # threads that wait for others sleep: spinning ones starve them where the cores are shared
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # front ends without widgets, and peft's use of a name that transformers gave up
    "PYTHONWARNINGS": "ignore:IProgress not found,ignore:`is_gradient_checkpointing`",
}
_ADDRESS = re.compile(r"(?<= at )0x[0-9a-fA-F]+")
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_BYTES_PER_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class RunError(ValueError):
    """The command names a notebook, a parameter or a value that does not exist; it lists what does."""


def main(name: str, *assignments: str) -> int:
    """Execute `notebooks/NAME.ipynb`; 0 when it succeeds, 1 when a cell fails, 2 when the command is wrong.

    Writes `executed/NAME[-VARIANT-SEED].ipynb` and `costs/...json`. A run that fails leaves no executed
    notebook; it leaves the failed one, error included, in `failed/`.
    """
    try:
        source = notebook_path(artifacts.root() / "notebooks", name)
        defaults = declared_parameters(source)
        values = parse_assignments(assignments, defaults, source.name)
    except RunError as error:
        print(error, file=sys.stderr)
        return 2
    os.environ.update(_FIXED_ENVIRONMENT)
    os.environ.pop("MPLBACKEND", None)  # figures are inline only where no other backend is asked for
    return _run(source, values, run_stem(name, values))


def notebook_path(folder: Path, name: str) -> Path:
    """`folder/NAME.ipynb`.

    Raises:
        RunError: there is no such notebook; lists those that exist.
    """
    path = folder / f"{name}.ipynb"
    if not path.is_file():
        existing = ", ".join(sorted(file.stem for file in folder.iterdir() if file.suffix == ".ipynb"))
        raise RunError(f"no notebook {name!r} in {folder}; there are: {existing or 'none'}")
    return path


def declared_parameters(source: Path) -> dict[str, Value]:
    """The parameters that a notebook declares in its cell tagged `parameters`, with their defaults, in order.

    Raises:
        RunError: the notebook names no kernel, or a default is not a literal.
    """
    try:
        declared = papermill.inspect_notebook(str(source))
    except ValueError as error:
        raise RunError(f"{source.name}: {error} Save it with the kernel `python3`.") from error
    try:
        return {name: ast.literal_eval(entry["default"]) for name, entry in declared.items()}
    except ValueError as error:
        raise RunError(f"{source.name}: the default of a parameter must be a literal: {error}") from error


def parse_assignments(assignments: Sequence[str], defaults: Mapping[str, Value], notebook: str) -> dict[str, Value]:
    """`["variant=cl", "seed=0"]` → `{"variant": "cl", "seed": 0}`, in the notebook's order.

    A value is YAML 1.2 of the type of the parameter's default, or any text where the default is text.

    Raises:
        RunError: no `=`, a parameter given twice or not declared, or a value of another type.
    """
    given: dict[str, Value] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise RunError(f"{assignment!r} is not name=value; {notebook} takes {_listed(defaults)}")
        if name not in defaults:
            raise RunError(f"{notebook} has no parameter {name!r}; it takes {_listed(defaults)}")
        if name in given:
            raise RunError(f"{name!r} is given twice for {notebook}; give it once")
        given[name] = _parse_value(text, defaults[name], f"{notebook}: {name}={text}")
    return {name: given[name] for name in defaults if name in given}


def _listed(defaults: Mapping[str, Value]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in defaults.items()) or "no parameter"


def _parse_value(text: str, default: Value, where: str) -> Value:
    if isinstance(default, str):
        return text
    try:
        value = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise RunError(f"{where}: not valid YAML: {error}") from error
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is not None and type(value) is not type(default):
        raise RunError(f"{where}: must be {type(default).__name__}, as the default {default!r} is")
    return value


def run_stem(name: str, values: Mapping[str, Value]) -> str:
    """`05_train-cl-0`: the notebook, then the values that tell its runs apart, which the profile does not."""
    return "-".join([name, *(str(value) for key, value in values.items() if key != "profile")])


def stable(notebook: NotebookNode) -> NotebookNode:
    """The same notebook without what differs between two runs of the same code on the same inputs.

    Dropped: stderr (progress bars, warnings), Papermill's and the front end's metadata, times, random cell
    ids, memory addresses, widget views. Chunks of printed text, which depend on timing, are joined.
    """
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    cells = [_stable_cell(cell, number) for number, cell in enumerate(notebook.cells)]
    return nbformat.from_dict({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells})


def _stable_cell(cell: NotebookNode, number: int) -> dict:
    tags = cell.metadata.get("tags", [])
    kept = {
        "cell_type": cell.cell_type,
        "id": f"cell-{number}",
        "metadata": {"tags": tags} if tags else {},
        "source": cell.source,
    }
    if cell.cell_type == "code":
        kept |= {"execution_count": cell.execution_count, "outputs": _stable_outputs(cell.outputs)}
    elif "attachments" in cell:
        kept["attachments"] = cell.attachments
    return kept


def _stable_outputs(outputs: Sequence[NotebookNode]) -> list[dict]:
    kept: list[dict] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if kept and kept[-1]["output_type"] == "stream":
                kept[-1]["text"] += output.text
            else:
                kept.append({"output_type": "stream", "name": "stdout", "text": output.text})
        elif "data" in output:
            data = {mime: _stable_data(value) for mime, value in output.data.items() if mime != _WIDGET_VIEW}
            if data:
                kept.append({**output, "data": data})
        else:
            kept.append(dict(output))
    for output in kept:
        if output["output_type"] == "stream":
            output["text"] = _stable_data(output["text"])
    return kept


def _stable_data(value: object) -> object:
    return _ADDRESS.sub("0x0", value) if isinstance(value, str) else value


def _run(source: Path, values: Mapping[str, Value], stem: str) -> int:
    target = artifacts.path(f"executed/{stem}.ipynb")
    target.unlink(missing_ok=True)  # until this run has succeeded there is no result
    failed = artifacts.path(f"failed/{stem}.ipynb")
    shown = " ".join([source.stem, *(f"{key}={value}" for key, value in values.items() if value != "")])
    print(f"{shown}: started", flush=True)

    began, cpu_before = time.perf_counter(), _cpu_of_children()
    with tempfile.TemporaryDirectory(prefix="irgpt-run-") as scratch:
        copy = Path(scratch) / source.name
        try:
            notebook = _execute(source, copy, values, Path(scratch))
        except (PapermillExecutionError, DeadKernelError) as error:
            print(f"{shown}: failed {_describe(error)}", file=sys.stderr)
            if copy.is_file():
                with artifacts.atomic(failed) as part:
                    shutil.move(copy, part)
                print(f"The notebook with its error: {failed}", file=sys.stderr)
            return 1
    with artifacts.atomic(target) as part:
        nbformat.write(stable(notebook), part)
    failed.unlink(missing_ok=True)

    wall = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _BYTES_PER_RSS_UNIT / 1e6
    cost = {
        "notebook": source.stem,
        "parameters": dict(values),
        "wall_s": round(wall, 1),
        "cpu_s": round(_cpu_of_children() - cpu_before, 1),
        "peak_mb": round(peak),
    }
    with artifacts.atomic(artifacts.path(f"costs/{stem}.json")) as part:
        part.write_text(json.dumps(cost, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{shown}: done in {wall:.0f} s, peak {peak:.0f} MB", flush=True)
    return 0


def _execute(source: Path, copy: Path, values: Mapping[str, Value], scratch: Path) -> NotebookNode:
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with _kernel_of_this_interpreter(scratch):
        return papermill.execute_notebook(
            str(source),
            str(copy),
            dict(values),
            cwd=str(artifacts.root()),
            kernel_name="python3",
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )


@contextmanager
def _kernel_of_this_interpreter(scratch: Path) -> Iterator[None]:
    """Let `python3` mean `sys.executable`: a kernelspec of that name from another environment would win."""
    argv = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    # ipykernel warns about its transport at every start; a real failure reaches us as an exception
    argv.append("--IPKernelApp.log_level=50")
    folder = scratch / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = os.pathsep.join([str(scratch), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["JUPYTER_PATH"]
        else:
            os.environ["JUPYTER_PATH"] = before


def _describe(error: PapermillExecutionError | DeadKernelError) -> str:
    if isinstance(error, DeadKernelError):
        return "because its kernel died; most often the machine ran out of memory"
    traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    return f"in cell {error.cell_index} with {error.ename}: {error.evalue}\n\n{error.source}\n\n{traceback}"


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m irgpt_lib.run NOTEBOOK [parameter=value ...]")
    sys.exit(main(*sys.argv[1:]))
