"""`irgpt models`: checkpoints, made ready for the study."""

from pathlib import Path
from typing import Annotated

import typer

from irgpt_lib.cli.telling import Json, show, told_errors

app = typer.Typer(help="Checkpoints, made ready for the study.", no_args_is_help=True)


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
