"""Captions to a person and back: a spreadsheet or Label Studio tasks, with the images, and the decisions that return.

What is exported carries a hash of the caption that was shown, so that a decision about a caption that has changed since
is seen. No decision is applied that does not fit: an unknown sample, a second decision, reviewers who disagree, a
caption that changed, an edit without text are each reported as `Rejected`, and the sample stays as it is.

The study keeps its decisions in `REVIEWS`, a table under version control, so that building the dataset again applies
them again.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from irgpt_lib.irtd.record import RecordError, Rejected, Sample, content_hash
from irgpt_lib.irtd.sources.assembly import printable
from irgpt_lib.irtd.sources.files import read_text
from irgpt_lib.irtd.sources.source import MalformedFile, MissingData
from irgpt_lib.irtd.sources.storing import replacing

Verdict = Literal["accept", "edit", "reject"]
VERDICTS: dict[str, Verdict] = {
    "accept": "accept",
    "accepted": "accept",
    "edit": "edit",
    "edited": "edit",
    "reject": "reject",
    "rejected": "reject",
}
PAST: dict[Verdict, str] = {"accept": "accepted", "edit": "edited", "reject": "rejected"}
SHOWN = ("sample_id", "image", "source", "band", "path", "draft", "caption")
FILLED_IN = ("new_caption", "verdict", "reviewer", "comment")
COLUMNS = (*SHOWN, *FILLED_IN, "caption_hash")
NEEDED = ("sample_id", *FILLED_IN, "caption_hash")
REVIEWS = "data/reviews.csv"  # below the study's folder
KEPT = ("sample_id", "verdict", "caption", "reviewer", "comment", "caption_hash")
DELIMITERS = ",;\t"
HASH_DIGITS = 16
LONGEST_CAPTION = 8192
REVIEW = "review"
LOCAL_FILES = "/data/local-files/?d="

# A spreadsheet takes such a cell for a formula, or for a number, of which it keeps 15 digits (a caption's hash may be
# all digits); an apostrophe in front makes it text.
CALCULATED = r"(?:[=+\-@\t\r]|[\d.,]+(?:[eE]\d*)?\Z)"
FORMULA = re.compile(f"'*{CALCULATED}")
GUARDED = re.compile(f"'+{CALCULATED}")

LABELING_CONFIG = """<View>
  <Header value="Infrared image"/>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <Header value="Draft, of the visible image"/>
  <Text name="draft" value="$draft"/>
  <Header value="Caption: does every word hold for the infrared image?"/>
  <TextArea name="new_caption" toName="image" value="$caption" rows="4" maxSubmissions="1" editable="true"/>
  <Choices name="verdict" toName="image" choice="single" required="true" showInline="true">
    <Choice value="accept"/>
    <Choice value="edit"/>
    <Choice value="reject"/>
  </Choices>
  <TextArea name="comment" toName="image" placeholder="Comment" rows="1" maxSubmissions="1" editable="true"/>
</View>
"""


@dataclass(frozen=True)
class Decision:
    """What one reviewer decided about one caption, and where it was written (`file`, `record`).

    `caption` is the reviewer's own text for the verdict `edit` and empty otherwise; `caption_hash` names the caption
    that was shown (`caption_hash()`).
    """

    sample_id: str
    verdict: Verdict
    caption: str
    reviewer: str
    comment: str
    caption_hash: str
    file: str = ""
    record: str = ""


def caption_hash(caption: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the caption's words: a spreadsheet may change line breaks."""
    return content_hash(" ".join(caption.split()).encode("utf-8", "backslashreplace"))[:HASH_DIGITS]


# Export


def image_name(sample: Sample) -> str:
    """A file name for the infrared image, as `llvip_010001-1f2e3d4c.png`, that no two ids share."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", sample.sample_id).strip("_")[-80:]
    digits = content_hash(sample.sample_id.encode("utf-8", "backslashreplace"))[:8]
    suffix = "jpg" if sample.infrared.startswith(b"\xff\xd8") else "png"
    return f"{plain}-{digits}.{suffix}"


def write_image(sample: Sample, folder: Path) -> str:
    """The infrared image as it is, PNG or JPEG, in `folder`; returns its file name."""
    name = image_name(sample)
    with replacing(folder / name) as draft:
        draft.write_bytes(sample.infrared)
    return name


def guarded(cell: str) -> str:
    """The cell, with an apostrophe in front where a spreadsheet would take it for a formula or a number."""
    return f"'{cell}" if FORMULA.match(cell) else cell


def unguarded(cell: str) -> str:
    """The cell as it was before `guarded`."""
    return cell[1:] if GUARDED.match(cell) else cell


def shown(sample: Sample, image: str) -> dict[str, str]:
    """What a reviewer sees of a sample."""
    return {
        "sample_id": sample.sample_id,
        "image": image,
        "source": sample.source,
        "band": sample.band,
        "path": sample.caption_path,
        "draft": sample.caption_draft,
        "caption": sample.caption,
        "caption_hash": caption_hash(sample.caption),
    }


def write_csv(samples: Iterable[Sample], file: Path) -> int:
    """One row a captioned sample for a spreadsheet, and the images in the folder `images` beside it; returns the number
    of rows. UTF-8 with a byte order mark, which spreadsheets need; cells that would be formulas are guarded. A reviewer
    fills in `verdict` (accept, edit, reject), `new_caption` for an edit, `reviewer` and `comment`.
    """
    rows = 0
    with replacing(file) as draft, draft.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        writer.writeheader()
        for sample in captioned(samples):
            row = shown(sample, f"images/{write_image(sample, file.parent / 'images')}")
            writer.writerow({name: guarded(printable(cell)) for name, cell in row.items()})
            rows += 1
    return rows


def captioned(samples: Iterable[Sample]) -> Iterator[Sample]:
    return (sample for sample in samples if sample.caption)


def write_label_studio(samples: Iterable[Sample], folder: Path, document_root: Path) -> int:
    """`tasks.json`, `labeling_config.xml` and `images/` for a Label Studio project; returns the number of tasks.

    Images are served from the local disk: Label Studio must run with local file serving on and
    `LOCAL_FILES_DOCUMENT_ROOT` set to `document_root`, under which `folder` lies.

    Raises:
        ValueError: `folder` does not lie under `document_root`.
    """
    if not folder.absolute().is_relative_to(document_root.absolute()):
        raise ValueError(
            f"{folder} must lie under the document root {document_root}, or no image can be served from it"
        )
    place = folder.absolute().relative_to(document_root.absolute())
    tasks = []
    for sample in captioned(samples):
        name = write_image(sample, folder / "images")
        data = shown(sample, LOCAL_FILES + quote((place / "images" / name).as_posix()))
        tasks.append({"data": {key: printable(text) for key, text in data.items()}})
    with replacing(folder / "tasks.json") as draft:
        draft.write_text(json.dumps(tasks, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with replacing(folder / "labeling_config.xml") as draft:
        draft.write_text(LABELING_CONFIG, encoding="utf-8")
    return len(tasks)


# Import


def decided(fields: Mapping[str, str]) -> Decision:
    """A decision from what was filled in, its place (`file`, `record`) still empty.

    Raises:
        RecordError: `unknown verdict`, `no reviewer`, `edit without a new caption`, `new caption without an edit`,
            `unusable caption`, `no caption hash`.
    """
    word = fields["verdict"].strip().lower()
    if word not in VERDICTS:
        raise RecordError("unknown verdict", f"{fields['verdict']!r}; known: accept, edit, reject")
    verdict = VERDICTS[word]
    written = " ".join(fields["new_caption"].split())
    changed = bool(written) and caption_hash(written) != fields["caption_hash"].strip()
    if not fields["reviewer"].strip():
        raise RecordError("no reviewer", "say who decided")
    if not fields["caption_hash"].strip():
        raise RecordError("no caption hash", "without it nobody can tell which caption was judged")
    if verdict == "edit" and not changed:
        raise RecordError("edit without a new caption", "write the new caption, or accept or reject the old one")
    if verdict == "accept" and changed:
        raise RecordError("new caption without an edit", f"verdict accept, but the caption reads {written!r:.80}")
    if len(written) > LONGEST_CAPTION or not written.isprintable():
        raise RecordError("unusable caption", f"{len(written)} characters, {written!r:.80}")
    return Decision(
        sample_id=fields["sample_id"].strip(),
        verdict=verdict,
        caption=written if verdict == "edit" else "",
        reviewer=" ".join(fields["reviewer"].split()),
        comment=printable(" ".join(fields["comment"].split())),
        caption_hash=fields["caption_hash"].strip(),
    )


Decided = tuple[list[Decision], list[Rejected]]


def collected(records: Iterable[tuple[str, Callable[[], Decision | None]]], file: Path) -> Decided:
    """The decisions of records, and those records that hold none that can be used."""
    decisions: list[Decision] = []
    problems: list[Rejected] = []
    for record, read in records:
        try:
            decision = read()
        except RecordError as error:
            problems.append(Rejected(REVIEW, file.name, record, error.reason, printable(error.detail)))
        else:
            decisions += [replace(decision, file=file.name, record=record)] if decision else []
    return decisions, problems


Row = dict[str | None, Any]


def sheet_rows(file: Path, needed: Sequence[str], cure: str) -> list[tuple[int, Row]]:
    """The rows of a CSV file with the number of their last line; what stands beyond the columns is under `None`.

    Columns in any order, further ones kept; separated by comma, semicolon or tab, as spreadsheets of other languages
    save them.

    Raises:
        MalformedFile: not UTF-8, no CSV, or a column of `needed` is missing or there twice; says which and the cure.
    """
    text = read_text(file)
    first = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first.count)
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    try:
        columns = [name.strip() for name in table.fieldnames or []]
        if lacking := [name for name in needed if name not in columns]:
            raise MalformedFile(
                f"{file}: lacks the columns {', '.join(lacking)}; it has {', '.join(columns) or 'none'}. {cure}"
            )
        if repeated := sorted({name for name in columns if name in needed and columns.count(name) > 1}):
            raise MalformedFile(f"{file}: has the columns {', '.join(repeated)} twice; leave one of each")
        table.fieldnames = columns
        return [(table.line_num, row) for row in table]
    except csv.Error as error:
        raise MalformedFile(f"{file}: after line {table.line_num}: {error}; save the sheet as CSV again") from error


def read_csv(file: Path, reviewer: str = "") -> Decided:
    """The decisions of a spreadsheet that `write_csv` made and a person filled in, and the rows that cannot be used.

    A row without a verdict and a new caption is not yet reviewed and left out. `reviewer` stands where a row names
    none.

    Raises:
        MalformedFile: see `sheet_rows`.
    """
    rows = sheet_rows(file, NEEDED, "Save the exported sheet with its header row, as CSV in UTF-8")
    for _, row in rows:
        row["reviewer"] = row["reviewer"].strip() or reviewer
    return collected(((f"line {line}", partial(row_decision, row)) for line, row in rows), file)


def row_decision(row: Mapping[str | None, Any]) -> Decision | None:
    """The decision of one row, None where the reviewer left it open.

    Raises:
        RecordError: `malformed line`, and the reasons of `decided`.
    """
    if None in row:
        raise RecordError("malformed line", f"{len(row[None])} cells more than columns")
    fields = {name: unguarded(row[name]) for name in NEEDED}
    if not fields["verdict"].strip() and not fields["new_caption"].strip():
        return None
    return decided(fields)


def read_label_studio(file: Path, reviewer: str = "") -> Decided:
    """The decisions of a Label Studio export in its JSON format, and the annotations that cannot be used.

    A task without annotation, or with one that was skipped, is not yet reviewed and left out. A reviewer's name is the
    e-mail address where the export holds it, else `annotator` and the number, else `reviewer`.

    Raises:
        MalformedFile: not UTF-8, not JSON or no list of tasks.
    """
    cure = "export the project as JSON"
    try:
        tasks = json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise MalformedFile(f"{file}: not JSON: {error}; {cure}") from error
    if not isinstance(tasks, list):
        raise MalformedFile(f"{file}: holds no list of tasks but a {type(tasks).__name__}; {cure}")
    return collected((item for number, task in enumerate(tasks) for item in annotations(number, task, reviewer)), file)


def annotations(number: int, task: Any, reviewer: str) -> Iterator[tuple[str, Callable[[], Decision | None]]]:
    """Each annotation of a task by its name, with what reads it; the task itself where it holds no list of them."""
    name = f"task {number}"
    found = task.get("annotations") if isinstance(task, dict) else None
    if not isinstance(found, list):
        yield name, partial(malformed, "a task must hold a list of annotations; export as JSON, not JSON-MIN")
        return
    for index, annotation in enumerate(found):
        yield f"{name} annotation {index}", partial(annotation_decision, task.get("data"), annotation, reviewer)


def malformed(detail: str) -> None:
    raise RecordError("malformed record", detail)


def annotation_decision(data: Any, annotation: Any, reviewer: str) -> Decision | None:
    """The decision of one annotation, None where the reviewer skipped the task; `reviewer` where it names nobody.

    Raises:
        RecordError: `malformed record`, `several captions`, and the reasons of `decided`.
    """
    if not isinstance(data, dict) or not isinstance(annotation, dict):
        raise RecordError("malformed record", "data and annotation must be objects")
    if annotation.get("was_cancelled") is True:
        return None
    fields = {name: data.get(name) for name in ("sample_id", "caption_hash")}
    if lacking := [name for name, value in fields.items() if not isinstance(value, str)]:
        raise RecordError("malformed record", f"data lacks the text {', '.join(lacking)}")
    texts = result_texts(annotation.get("result"))
    if len(texts["new_caption"]) > 1:
        raise RecordError("several captions", f"{len(texts['new_caption'])} texts for one caption")
    answers = {name: "; ".join(texts[name]) for name in ("verdict", "new_caption", "comment")}
    return decided({**fields, **answers, "reviewer": reviewer_name(annotation.get("completed_by")) or reviewer})


def result_texts(result: Any) -> dict[str, list[str]]:
    """The texts and choices of an annotation by the control that they were given in.

    Raises:
        RecordError: `malformed record`.
    """
    texts: dict[str, list[str]] = {"verdict": [], "new_caption": [], "comment": []}
    if not isinstance(result, list):
        raise RecordError("malformed record", f"result must be a list, found {result!r:.80}")
    for region in result:
        value = region.get("value") if isinstance(region, dict) else None
        if not isinstance(value, dict):
            raise RecordError("malformed record", f"a result must hold a value, found {region!r:.80}")
        given = value.get("choices", value.get("text"))
        given = [given] if isinstance(given, str) else given
        if region.get("from_name") not in texts:
            continue
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise RecordError("malformed record", f"{region['from_name']} must be texts, found {given!r:.80}")
        texts[region["from_name"]] += [text for text in given if text.strip()]
    return texts


def reviewer_name(completed_by: Any) -> str:
    """The reviewer of an annotation as an export names them: by e-mail address, by number, or not at all."""
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("id")
    if isinstance(completed_by, int) and not isinstance(completed_by, bool):
        return f"annotator {completed_by}"
    return printable(completed_by) if isinstance(completed_by, str) else ""


# The study's own table of decisions


def read_decisions(file: Path) -> list[Decision]:
    """The decisions that the study keeps (`REVIEWS`), in their order.

    Raises:
        MissingData: there is no such file.
        MalformedFile: no such table, or a line that holds no decision; what somebody decided is never passed over.
    """
    if not file.is_file():
        raise MissingData(f"{file}: no such file; restore it, or begin one with `irgpt dataset review import`")
    rows = sheet_rows(file, KEPT, "It is written by `irgpt dataset review import`")
    decisions, problems = collected(((f"line {line}", partial(kept_decision, row)) for line, row in rows), file)
    if problems:
        told = "; ".join(f"{bad.record}: {bad.reason}: {bad.detail}" for bad in problems[:3])
        raise MalformedFile(f"{file}: lines that hold no decision: {len(problems)}: {told}; mend them or take them out")
    return decisions


def kept_decision(row: Row) -> Decision:
    """The decision of one row of `KEPT`.

    Raises:
        RecordError: `malformed line`, and the reasons of `decided`.
    """
    if None in row:
        raise RecordError("malformed line", f"{len(row[None])} cells more than columns")
    fields = {name: unguarded(row[name]) for name in KEPT}
    return decided({**fields, "new_caption": fields["caption"]})


Standing = dict[str, dict[tuple[str, ...], Decision]]


def add_decisions(file: Path, decisions: Sequence[Decision]) -> tuple[list[Decision], list[Rejected]]:
    """Add decisions to those in `file`, which need not exist yet; returns those that were added, and what was not.

    The file is written whole or not at all, sorted, one row a decision. A decision that it holds is added no second
    time. Another decision of the same reviewer about the same caption takes the place of the former. A decision about
    the text of an edit in the file becomes one about the caption before that edit (`before_edit`).

    Reasons of what is not added: `conflicting decisions`, with what another reviewer decided before about that caption,
    or where one reviewer decides it in several ways at once.

    Raises:
        MalformedFile: see `read_decisions`.
    """
    standing: Standing = {}
    for decision in read_decisions(file) if file.is_file() else []:
        standing.setdefault(decision.sample_id, {})[decision_row(decision)] = decision
    based = [before_edit(one, standing.get(one.sample_id, {}).values()) for one in decisions]
    ways: dict[tuple[str, str, str], set[tuple[str, str]]] = {}
    for decision in based:
        ways.setdefault(judged(decision), set()).add((decision.verdict, decision.caption))
    added: dict[tuple[str, ...], Decision] = {}
    problems: list[Rejected] = []
    for decision in based:
        own, row = standing.setdefault(decision.sample_id, {}), decision_row(decision)
        if (several := len(ways[judged(decision)])) > 1:
            detail = f"{decision.reviewer} decided it in {several} ways at once; leave one"
            problems.append(problem(decision, "conflicting decisions", detail))
        elif against := [other for other in own.values() if contradicts(decision, other)]:
            detail = f"{spoken(decision)}; decided before: {spoken(*against)}"
            problems.append(problem(decision, "conflicting decisions", detail))
        elif row not in own:
            for former in [key for key, other in own.items() if judged(other) == judged(decision)]:
                del own[former]
                added.pop(former, None)
            own[row] = added[row] = decision
    if added:
        write_decisions(file, [row for own in standing.values() for row in own])
    return list(added.values()), problems


def decision_row(decision: Decision) -> tuple[str, ...]:
    """A decision in the columns `KEPT`."""
    return tuple(getattr(decision, name) for name in KEPT)


def judged(decision: Decision) -> tuple[str, str, str]:
    """Which caption was judged, and by whom."""
    return decision.sample_id, decision.caption_hash, decision.reviewer


def contradicts(one: Decision, other: Decision) -> bool:
    """Whether two reviewers decided differently about one caption of one sample."""
    differently = (one.verdict, one.caption) != (other.verdict, other.caption)
    return differently and one.caption_hash == other.caption_hash and one.reviewer != other.reviewer


def before_edit(decision: Decision, standing: Iterable[Decision]) -> Decision:
    """The decision, or, where it judges the text of an edit among `standing` (those of its sample), what it says of the
    caption before that edit, which is the one that building the dataset again finds: to accept an edited text is to
    make the same edit, to bring the first text back is to accept it."""
    for edit in standing:
        if edit.verdict != "edit" or caption_hash(edit.caption) != decision.caption_hash:
            continue
        first = replace(decision, caption_hash=edit.caption_hash)
        if decision.verdict == "accept":
            return replace(first, verdict="edit", caption=edit.caption)
        restored = decision.verdict == "edit" and caption_hash(decision.caption) == edit.caption_hash
        return replace(first, verdict="accept", caption="") if restored else first
    return decision


def spoken(*decisions: Decision) -> str:
    """`ann: edit A bus.; bob: accept`"""
    return "; ".join(f"{d.reviewer}: {d.verdict} {d.caption}".strip() for d in decisions)


def write_decisions(file: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """Rows of `KEPT`, sorted, under their names; cells that would be formulas are guarded."""
    with replacing(file) as draft, draft.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(KEPT)
        writer.writerows(tuple(map(guarded, row)) for row in sorted(rows))


# Decisions to samples


def apply_review(
    samples: Iterable[Sample], decisions: Sequence[Decision], rejected: Literal["remove", "quarantine"] = "remove"
) -> Iterator[Sample | Rejected]:
    """Every sample once, reviewed where a decision fits it, and a `Rejected` for each decision that does not.

    Accepted and edited captions get the state `reviewed`; the facts `review`, `reviewed_by` and `review_comment` say
    what was decided. A rejected caption is taken away (`remove`; the draft stays) or its sample goes to quarantine
    (`quarantine`: a `Rejected` in its place). Reviewers who agree are named together. Applying decisions a second time
    changes nothing and reports nothing of those that were applied, quarantined samples apart.

    Reasons of reported decisions: `unknown sample`, `duplicate decision` (one reviewer, twice the same), `stale
    decision` (the caption changed since the export), `conflicting decisions` (none of them is applied).
    """
    by_sample: dict[str, list[Decision]] = {}
    for decision in decisions:
        by_sample.setdefault(decision.sample_id, []).append(decision)
    for sample in samples:
        given = by_sample.pop(sample.sample_id, [])
        fitting, problems = sorted_out(sample, given)
        yield from problems
        yield settled(sample, fitting, rejected) if fitting else sample
    for decision in (decision for given in by_sample.values() for decision in given):
        yield problem(decision, "unknown sample", f"no sample has the id {decision.sample_id!r}")


def problem(decision: Decision, reason: str, detail: str) -> Rejected:
    return Rejected(REVIEW, decision.file, f"{decision.record}: {decision.sample_id}", reason, detail)


def was_applied(sample: Sample, decision: Decision) -> bool:
    """Whether the sample already is as the decision would make it, and by that reviewer."""
    if decision.reviewer not in sample.facts.get("reviewed_by", "").split(", "):
        return False
    if decision.verdict == "reject":
        return not sample.caption and sample.facts.get("review") == "rejected"
    return decision.verdict == "edit" and sample.caption == decision.caption


def sorted_out(sample: Sample, given: Sequence[Decision]) -> tuple[list[Decision], list[Rejected]]:
    """The decisions that fit the sample and one another, and what is wrong with the rest."""
    fitting: list[Decision] = []
    problems: list[Rejected] = []
    current = caption_hash(sample.caption)
    seen: set[tuple[str, str, str]] = set()
    for decision in given:
        content = (decision.reviewer, decision.verdict, decision.caption)
        if was_applied(sample, decision):
            continue
        if decision.caption_hash != current or not sample.caption:
            detail = f"it was about another caption than {sample.caption!r:.80}; export again"
            problems.append(problem(decision, "stale decision", detail))
        elif content in seen:
            problems.append(problem(decision, "duplicate decision", f"{decision.reviewer} decided this before"))
        else:
            seen.add(content)
            fitting.append(decision)
    if len({(decision.verdict, decision.caption) for decision in fitting}) > 1:
        problems += [problem(decision, "conflicting decisions", spoken(*fitting)) for decision in fitting]
        return [], problems
    return fitting, problems


def settled(sample: Sample, agreed: Sequence[Decision], rejected: Literal["remove", "quarantine"]) -> Sample | Rejected:
    """The sample after decisions that say the same."""
    names = ", ".join(sorted({decision.reviewer for decision in agreed}))
    comments = "; ".join(decision.comment for decision in agreed if decision.comment)
    first = agreed[0]
    if first.verdict == "reject" and rejected == "quarantine":
        detail = f"{names}: {comments}" if comments else names
        return Rejected(sample.source, sample.origin, sample.sample_id, "caption rejected in review", detail)
    facts = sample.facts | {"review": PAST[first.verdict], "reviewed_by": names}
    facts |= {"review_comment": comments} if comments else {}
    if first.verdict == "reject":
        return replace(
            sample, caption="", caption_path="none", caption_from="", caption_state="", caption_by="", facts=facts
        )
    if first.verdict == "edit":
        by = f"{sample.caption_by} + {names}"
        return replace(sample, caption=first.caption, caption_state="reviewed", caption_by=by, facts=facts)
    return replace(sample, caption_state="reviewed", facts=facts)
