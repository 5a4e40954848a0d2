"""`irgpt models`: checkpoints, made ready for the study, and its runs, given away."""

from pathlib import Path
from typing import Annotated

import typer

from irgpt_lib.cli.telling import Json, show, told_errors

app = typer.Typer(help="Checkpoints into the study, and its runs out of it.", no_args_is_help=True)


@app.command("convert-internvl2")
def convert_internvl2(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The folder of an original InternVL2-2B, 8B or 26B.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to make; it must not exist.")],
    as_json: Json = False,
) -> None:
    """Rewrite an original InternVL2 checkpoint into transformers' native classes; none of its code is run.

    DST appears when it is complete, with a manifest of every tensor's origin.
    """
    from irgpt_lib.models.internvl2 import MANIFEST, UnknownLayout, convert

    with told_errors():
        try:
            manifest = convert(source, target)
        except UnknownLayout as error:
            raise typer.BadParameter(str(error)) from error
        files = sorted({tensor["file"] for tensor in manifest["tensors"].values()})
        report = {
            "folder": str(target),
            "tensors": len(manifest["tensors"]),
            "files": files,
            "manifest": str(target / MANIFEST),
        }
        lines = [
            f"{target}: {report['tensors']} tensors in {len(files)} files",
            f"  origins in {report['manifest']}",
            f"  to start the study from it: `weights: {target}` in params.yaml",
        ]
        show(report, lines, as_json)


@app.command("export")
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A trained run of the study, such as cl-0.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to make; it must not exist.")],
    merged: Annotated[bool, typer.Option("--merged", help="Base and run as one model; else the adapter.")] = False,
    licence: Annotated[
        str, typer.Option("--licence", help="That of the weights, for the card: a hub's id, such as mit, or a name.")
    ] = "unknown",
    profile: Annotated[
        str, typer.Option("--profile", help="The profile that the run was trained under, where nothing tells.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Write a run as a peft adapter for its untouched base, or merged into it, with a model card.

    DST appears when it is complete.
    """
    from irgpt_lib.models.families import UnfitCheckpoint
    from irgpt_lib.params import ParamsError
    from irgpt_lib.training.export import Unexportable, export_run

    with told_errors():
        try:
            facts = export_run(run, target, merged=merged, licence=licence, profile=profile)
        except (Unexportable, ParamsError, UnfitCheckpoint) as error:
            raise typer.BadParameter(str(error)) from error
        form = "merged" if merged else "adapter"
        files = {file.name: file.stat().st_size for file in sorted(target.iterdir())}
        report = {"folder": str(target), "run": run, "form": form, "base": facts.base, "files": files}
        lines = [
            f"{target}: {run} as {'one model' if merged else 'an adapter'}, {sum(files.values()) / 1e6:,.1f} MB",
            f"  base: {facts.base}",
            "  how to load it is in README.md",
        ]
        show(report, lines, as_json)
