"""`irgpt release`: the released IR-TD instruction set, read and checked."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from irgpt_lib.cli.telling import Json, Out, show, told_errors
from irgpt_lib.irtd.release import read_release, write_parquet
from irgpt_lib.irtd.release_check import (
    FLIR_DATASET,
    compare_all,
    dataset_folders,
    dataset_of,
    frames_folder,
    frames_of,
    full_report,
    locate_images,
    report_lines,
    write_manifest,
)

app = typer.Typer(help="The released IR-TD instruction set.", no_args_is_help=True)


@app.command("read")
def read_released(
    folder: Annotated[Path, typer.Argument(help="The folder with Recognition.json, Detection.json and so on.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Read the released questions into one table; repairs and rejected records are told."""
    with told_errors():
        records, rejected, repairs = read_release(folder)
        write_parquet(records, out)
        tasks = dict(sorted(Counter(record.task for record in records).items()))
        report = {
            "file": str(out),
            "records": tasks,
            "rejected": [asdict(item) for item in rejected],
            "repairs": [asdict(item) for item in repairs],
        }
        lines = [
            f"{out}: {len(records)} records",
            *(f"  {count:6} {task}" for task, count in tasks.items()),
            *(f"repaired {item.file}: {item.count} x {item.what}" for item in repairs),
            *(f"rejected {item.file}, {item.record}: {item.reason}: {item.detail}" for item in rejected),
        ]
        show(report, lines, as_json)


@app.command("check")
def check_released(
    folder: Annotated[Path, typer.Argument(help="The folder with Recognition.json, Detection.json and so on.")],
    flir: Annotated[Path | None, typer.Option("--flir", help="The FLIR ADAS folder: boxes to check against.")] = None,
    format: Annotated[str, typer.Option("--format", help="The format of --flir; flir_csv where none is given.")] = "",
    images: Annotated[Path | None, typer.Option("--images", help="Holds folders named as in the release.")] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", help="JSON lines of what was found, to write.")] = None,
    as_json: Json = False,
) -> None:
    """Whether the released answers follow from the boxes of their frames, can be read, and have their images here."""
    with told_errors():
        records, *_ = read_release(folder)
        frames, rejected = frames_of(flir, format) if flir else ({}, [])
        folders = dataset_folders(images, {dataset_of(record) for record in records}) if images else {}
        if flir:
            folders[FLIR_DATASET] = frames_folder(flir)
        located = list(locate_images(records, folders))
        report = full_report(records, compare_all(records, frames), located, rejected)
        if manifest:
            report["manifest"] = {"file": str(manifest), "records": write_manifest(located, manifest)}
        show(report, report_lines(report), as_json)
