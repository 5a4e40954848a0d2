"""`irgpt benchmark`: the questions and images of the nine tasks, written for other evaluation kits."""

from pathlib import Path
from typing import Annotated

import typer

from irgpt_lib.cli.telling import Json, show, told_errors

app = typer.Typer(help="The benchmark for other evaluation kits.", no_args_is_help=True)

KITS = ("lmms-eval", "vlmevalkit")


@app.callback()
def benchmark() -> None:
    """The benchmark for other evaluation kits."""


@app.command("export")
def export_benchmark(
    out: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write into.")],
    kit: Annotated[str, typer.Option("--kit", help="lmms-eval: a task folder; vlmevalkit: TSV files.")],
    dataset: Annotated[Path | None, typer.Option("--dataset", help="A dataset's folder; else the study's own.")] = None,
    split: Annotated[str, typer.Option("--split", help="The split whose questions are written.")] = "benchmark",
    tasks: Annotated[str, typer.Option("--tasks", help="Only these tasks, by commas.")] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many questions a task.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="lmms-eval: longest answer.")] = 512,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds files.")] = False,
    as_json: Json = False,
) -> None:
    """Write questions and images in the form of an evaluation kit, and tell how the kit takes them."""
    from irgpt_lib.cli.asking import asked_of
    from irgpt_lib.cli.dataset import room_in
    from irgpt_lib.evaluation.interop.lmms_eval import PREFIX, write_lmms_eval
    from irgpt_lib.evaluation.interop.vlmevalkit import OPEN_ENDED, write_vlmevalkit

    with told_errors():
        if kit not in KITS:
            raise typer.BadParameter(f"--kit is one of {', '.join(KITS)}")
        asked, images = asked_of(dataset, split, tasks, limit)
        room_in(out, force)
        if kit == "lmms-eval":
            counts = write_lmms_eval(asked, images, out, max_tokens=max_tokens)
            then = f"python -m lmms_eval --include_path {out} --tasks {PREFIX} --log_samples --model ..."
        else:
            counts = write_vlmevalkit(asked, images, out)
            then = (
                f"LMUData={out} PRED_FORMAT=tsv python run.py --data {OPEN_ENDED} --mode infer --model ..., then irgpt "
                f"score --output-field prediction --predictions FILE on the *_{OPEN_ENDED}.tsv that it wrote"
            )
        report = {"folder": str(out), "kit": kit, "questions": counts, "then": then}
        show(report, [*(f"  {n:6} {name}" for name, n in counts.items()), f"{out}: written; {then}"], as_json)
