"""`irgpt dataset`: the built dataset, exported, checked, and its captions to a reviewer and back."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

import typer

from irgpt_lib.cli.telling import Json, show, spoken, told, told_errors, watched
from irgpt_lib.irtd.record import CAPTION_STATES, CaptionPath, Rejected, Sample
from irgpt_lib.irtd.sources import MissingData

app = typer.Typer(help="The built dataset: export, review of captions, check.", no_args_is_help=True)
review_app = typer.Typer(help="Captions to a person who reviews them, and back.", no_args_is_help=True)
app.add_typer(review_app, name="review")

OutFolder = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write into.")]
Force = Annotated[bool, typer.Option("--force", help="Write into a folder that holds files; others than these stay.")]
Built = Annotated[Path | None, typer.Option("--dataset", help="A dataset's folder; the study's own if none is given.")]
Split = Annotated[str, typer.Option("--split", help="pretrain, instruction or benchmark; all if none is given.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many samples, the first ones.")]

EXPORTS = ("llava", "readme")
REVIEWED_PATHS: tuple[CaptionPath, ...] = ("IV", "V")
FAULTS_TOLD = 10


@app.command("export")
def export_dataset(
    form: Annotated[
        str, typer.Argument(metavar="FORM", help="llava: turn lists, a file a task; readme: a line an image.")
    ],
    out: OutFolder,
    split: Split = "",
    limit: Limit = None,
    dataset: Built = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the dataset in one of the release's forms: its images, and beside them their texts as JSON."""
    from irgpt_lib.cli import built
    from irgpt_lib.irtd import exchange

    with told_errors():
        if form not in EXPORTS:
            raise typer.BadParameter(f"{form} is no form of export; there are {', '.join(EXPORTS)}")
        folder = built.dataset_folder(dataset)
        ids = built.sample_ids(folder, split)[:limit]
        room_in(out, force)
        samples = watched(islice(built.dataset_samples(folder, split), limit))
        questions = built.questions_about(folder, ids)
        if form == "llava":
            written = exchange.write_llava(samples, questions, out, built.conversations_about(folder, ids))
            records = {f"{stem}.json": number for stem, number in written.items()}
        else:
            records = {exchange.README_FILE: exchange.write_readme(samples, questions, out)}
        report = {"folder": str(out), "form": form, "samples": len(ids), "records": records}
        lines = [f"{out}: {len(ids)} samples as {form}", *(f"  {n:6} {name}" for name, n in records.items())]
        show(report, lines, as_json)


def room_in(out: Path, force: bool) -> None:
    """Nothing that somebody keeps in a folder is overwritten by mistake.

    Raises:
        typer.BadParameter: it holds something, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise typer.BadParameter(f"{out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise typer.BadParameter(f"{out} is not empty; name another folder, or write into it with --force")


@review_app.command("export")
def export_review(
    out: OutFolder,
    split: Split = "",
    limit: Limit = None,
    state: Annotated[str, typer.Option("--state", help="Captions in this state: draft, final or reviewed.")] = "final",
    label_studio: Annotated[bool, typer.Option("--label-studio", help="Label Studio tasks, and no sheet.")] = False,
    simulated: Annotated[bool, typer.Option("--simulated", help="Captions of simulated images too.")] = False,
    dataset: Built = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Captions of authentic images with these images, for a person to accept, edit or reject: review.csv, or Label
    Studio's tasks.json and labeling_config.xml."""
    from irgpt_lib.cli import built
    from irgpt_lib.irtd import review

    with told_errors():
        if state not in CAPTION_STATES[1:]:
            raise typer.BadParameter(f"--state is one of {', '.join(CAPTION_STATES[1:])}")
        folder = built.dataset_folder(dataset)
        room_in(out, force)
        samples = built.dataset_samples(folder, split)
        found = (s for s in samples if s.caption_state == state and reviewable(s, simulated))
        first = next(found, None)
        if first is None:
            hint = "" if simulated else "; --simulated takes those of simulated images too"
            raise MissingData(f"{folder}: no caption in state {state}{f' in split {split}' if split else ''}{hint}")
        chosen = watched(islice(chain([first], found), limit))
        if label_studio:
            # Label Studio refuses to serve its document root itself, but serves the folder of images in it
            count, file = review.write_label_studio(chosen, out, out), out / "tasks.json"
            then = (
                "start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
                f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={out.absolute()}, add {out.absolute() / 'images'} as local "
                "storage, paste labeling_config.xml, import tasks.json; export as JSON"
            )
        else:
            file = out / "review.csv"
            count = review.write_csv(chosen, file)
            then = "fill in verdict (accept, edit, reject), new_caption for an edit, reviewer; save as CSV"
        lines = [f"{file}: {count} captions", f"{then}, then `irgpt dataset review import FILE`"]
        show({"file": str(file), "captions": count, "then": then}, lines, as_json)


def reviewable(sample: Sample, simulated: bool) -> bool:
    """Whether a sample has a caption of path IV or V of an authentic image, or, with `simulated`, any caption."""
    return bool(sample.caption) and (simulated or (sample.authentic and sample.caption_path in REVIEWED_PATHS))


@review_app.command("import")
def import_review(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The filled-in CSV, or Label Studio's JSON export.")],
    reviewer: Annotated[str, typer.Option("--reviewer", help="Who decided where the file names nobody.")] = "",
    as_json: Json = False,
) -> None:
    """Add a reviewer's decisions to the study's data/reviews.csv; `dvc repro dataset` applies them.

    What cannot be used, or contradicts another reviewer, is told and not added, and the exit code is 1.
    """
    from irgpt_lib import artifacts
    from irgpt_lib.irtd import review

    with told_errors():
        readers = {".csv": review.read_csv, ".tsv": review.read_csv, ".json": review.read_label_studio}
        if file.suffix.lower() not in readers:
            raise typer.BadParameter(f"{file}: its name must end with one of {', '.join(readers)}")
        kept = artifacts.root() / review.REVIEWS
        decisions, problems = readers[file.suffix.lower()](file, reviewer)
        added, conflicts = review.add_decisions(kept, decisions)
        problems += conflicts
        report = {
            "file": str(file),
            "decisions": len(decisions),
            "added": len(added),
            "added_to": str(kept),
            "problems": [asdict(bad) for bad in problems],
        }
        lines = [
            f"{file}: {len(decisions)} decisions, {len(problems)} problems",
            *(f"  {told(bad)}" for bad in problems),
            f"{kept}: {len(added)} added" + ("; `dvc repro dataset` applies them" if added else ""),
        ]
        show(report, lines, as_json)
    if problems:
        raise typer.Exit(1)


@app.command("check")
def check_dataset(
    dataset: Built = None,
    distance: Annotated[
        int | None, typer.Option("--distance", min=0, max=16, help="Bits between near-duplicates; else of params.yaml.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Whether a dataset's folder holds what it says: schema, every image and box, ids, splits, leaks, answers,
    checksums.

    The exit code is 1 where there is a fault; each is told with file, record and reason.
    """
    from irgpt_lib.cli import built
    from irgpt_lib.irtd.dataset_check import check_folder

    with told_errors():
        folder = built.dataset_folder(dataset)
        checked = check_folder(folder, group_distance(distance), watched)
        report = {
            "folder": str(folder),
            "samples": checked.samples,
            **checked.counts,
            "questions": checked.questions,
            "faults": [asdict(bad) for bad in checked.faults],
        }
        lines = [
            f"{folder}: {checked.samples} samples, {sum(checked.questions.values())} questions",
            *(f"{key}: {spoken(report[key]) or 'none'}" for key in (*checked.counts, "questions")),
            *fault_lines(checked.faults),
        ]
        show(report, lines, as_json)
    if checked.faults:
        raise typer.Exit(1)


def group_distance(given: int | None) -> int:
    """How many bits two perceptual hashes may differ by to need one split: as given, else of params.yaml.

    Raises:
        MissingData: no distance is given and there is no params.yaml that can be read.
    """
    from irgpt_lib import params
    from irgpt_lib.irtd.dataset_check import first_line

    if given is not None:
        return given
    try:
        return params.load("dataset").dataset.near_duplicates.group_distance
    except (params.ParamsError, OSError) as error:
        raise MissingData(f"{first_line(error)}; or give --distance, the study's is 6 bits of 64") from error


def fault_lines(faults: Iterable[Rejected]) -> Iterator[str]:
    """The number of faults and each in a line; of one reason the first ones only."""
    reasons = Counter(bad.reason for bad in faults)
    yield f"faults: {reasons.total() or 'none'}"
    for reason, count in sorted(reasons.items()):
        alike = (bad for bad in faults if bad.reason == reason)
        yield from (f"  {told(bad)}" for bad in islice(alike, FAULTS_TOLD))
        if count > FAULTS_TOLD:
            yield f"  and {count - FAULTS_TOLD} more of: {reason}; --json tells all"
