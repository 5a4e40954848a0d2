"""From a file and its annotation to a checked sample, or to quarantine."""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from irgpt_lib.irtd.captions import SPOKEN, with_rule_caption
from irgpt_lib.irtd.record import Box, RecordError, Rejected, Sample, check
from irgpt_lib.irtd.sources.boxes import fit_box
from irgpt_lib.irtd.sources.files import colour_facts, decoding, read_image, read_toned, short_path
from irgpt_lib.irtd.sources.naming import NAME_RULES
from irgpt_lib.irtd.sources.source import Pending, Source

SPLITS = {"train": "train", "training": "train", "val": "val", "validation": "val", "test": "test"}
# M3FD writes the class of each single person in the plural
CLASSES_MEANT = {"people": "person"}
NOT_OBJECTS = frozenset({"dontcare", "ignore", "ignored"})


@dataclass(frozen=True)
class Annotation:
    """What a file says of one image: its objects, the regions it leaves out, the image size it states.

    `left_out` counts, by kind, annotations that are no single object (`dont_care`, `crowd`).
    """

    boxes: tuple[Box, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    stated_size: tuple[int, int] | None = None


def attempt(source: Source, file: str, record: str, build: Callable[[], Sample]) -> Pending:
    """A record to be made later, perhaps by another process and perhaps never: an adapter lists records cheaply, and
    nothing that it lists may depend on an earlier `build` having run."""
    return Pending(source.name, printable(file), printable(record), build)


def made(found: Pending | Rejected) -> Sample | Rejected:
    """The sample of a pending record, captioned by rule and checked, or the reason why there is none."""
    if isinstance(found, Rejected):
        texts = (found.file, found.record, found.reason, found.detail)
        return Rejected(found.source, *map(printable, texts))
    try:
        sample = with_rule_caption(found.build())
        refuse_unwritable(sample)
        with decoding(found.file):
            return check(sample)
    except RecordError as error:
        return Rejected(found.source, found.file, found.record, error.reason, printable(error.detail))


def refuse_unwritable(sample: Sample) -> None:
    """Let only names pass that a table can hold; a file system gives others to files that were named elsewhere.

    Raises:
        RecordError: `name not UTF-8`.
    """
    for text in (sample.sample_id, sample.group, sample.origin, sample.scene, *sample.facts.values()):
        if printable(text) != text:
            raise RecordError("name not UTF-8", f"{text}; rename the file")


def printable(text: str) -> str:
    """The text with escapes for what UTF-8 cannot hold: JSON can name half a character, a table cannot."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def plain_category(name: object) -> str:
    """A category as boxes carry it: lower case, no blanks around, and as people write it (`other vehicle`).

    Raises:
        RecordError: `unknown class` where it is no text or empty.
    """
    if not isinstance(name, str) or not name.strip() or printable(name) != name:
        # a few lines of YAML can spell a list of a thousand million entries, too long to be shown
        shown = f"{name!r:.60}" if isinstance(name, str | int | None) else f"a {type(name).__name__}"
        raise RecordError("unknown class", f"{shown} is no class name")
    plain = name.strip().lower()
    return CLASSES_MEANT.get(plain) or SPOKEN.get(plain, plain)


def relative(file: Path, root: Path) -> str:
    """The file as seen from the root, with forward slashes."""
    return file.relative_to(root).as_posix()


def split_of(path: str) -> str:
    """The split that a file's folders name, empty where none does."""
    return next((SPLITS[part.lower()] for part in Path(path).parts[:-1] if part.lower() in SPLITS), "")


def counted_category(source: Source, annotation: Annotation) -> str:
    """The category that a counting question may ask for: the first exhaustively annotated one that is
    present, else the last. Empty where regions were left out, for objects may hide in them."""
    if annotation.left_out or not source.counted:
        return ""
    present = {box.category for box in annotation.boxes}
    return next((category for category in source.counted if category in present), source.counted[-1])


def annotated_sample(
    source: Source,
    root: Path,
    image: Path,
    annotation: Annotation | None,
    split: str = "",
    visible: bytes = b"",
) -> Sample:
    """The sample of one infrared file; `annotation` is `None` where no file speaks of it.

    Raises:
        RecordError: the reasons of `read_toned` and `fit_box`, or `size mismatch` where the annotation states
            another image size, since its boxes would then lie elsewhere.
    """
    read = read_toned(image)
    width, height = read.width, read.height
    said = annotation or Annotation()
    if said.stated_size and said.stated_size != (width, height):
        stated = "x".join(map(str, said.stated_size))
        detail = f"{relative(image, root)}: annotation states {stated}, image is {width}x{height}"
        raise RecordError("size mismatch", detail)
    named = NAME_RULES[source.naming](image.stem)
    facts = (
        named.facts
        | read.facts
        | colour_facts(read.data, relative(image, root))
        | {kind: str(count) for kind, count in said.left_out.items()}
    )
    if annotation is None:
        facts |= {"annotation": "none"}
    return Sample(
        sample_id=f"{source.name}/{image.stem}",
        source=source.name,
        band=source.band,
        kind=source.kind,
        width=width,
        height=height,
        infrared=read.data,
        visible=visible,
        authentic=source.authentic,
        group=f"{source.name}/{named.group}",
        split=split or split_of(relative(image, root)),
        boxes=tuple(fit_box(box, width, height) for box in said.boxes),
        counted=counted_category(source, said) if annotation else "",
        origin=relative(image, root),
        facts=facts,
    )


def with_facts(sample: Sample, **facts: str) -> Sample:
    """The sample with further facts."""
    return replace(sample, facts=sample.facts | facts)


def with_aligned_mate(sample: Sample, mate: Path) -> Sample:
    """The sample with its visible image, which lies on it pixel for pixel.

    Raises:
        RecordError: `size mismatch` between the two, or a reason of `read_image`.
    """
    visible, width, height = read_image(mate)
    if (width, height) != (sample.width, sample.height):
        sizes = f"visible {width}x{height}, infrared {sample.width}x{sample.height}"
        raise RecordError("size mismatch", f"{short_path(mate)}: {sizes}")
    return with_facts(replace(sample, visible=visible), visible_frame="aligned")


def by_stem(source: Source, root: Path, images: Iterable[Path]) -> tuple[dict[str, Path], list[Rejected]]:
    """Images by stem, the first of equal stems kept and the others rejected: annotations tell them not
    apart."""
    first: dict[str, Path] = {}
    rejected = []
    for image in images:
        if image.stem in first:
            detail = f"{relative(first[image.stem], root)} has the same stem"
            rejected.append(Rejected(source.name, relative(image, root), image.stem, "duplicate id", detail))
        else:
            first[image.stem] = image
    return first, rejected


def unmatched(
    source: Source,
    root: Path,
    files: Iterable[Path],
    known: Container[str],
    reason: str,
    detail: str,
    sequence: str = "",
) -> Iterator[Rejected]:
    """The files whose stem `known` lacks, rejected. `detail` says, before their stem, what it is that they lack; the
    record bears the name of their sequence where they have one."""
    for file in files:
        if file.stem not in known:
            record = f"{sequence}/{file.stem}" if sequence else file.stem
            yield Rejected(source.name, relative(file, root), record, reason, f"{detail} {file.stem}")


def tally(kinds: Sequence[str]) -> dict[str, int]:
    """How often each kind occurs, sorted by kind."""
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}
