"""The dataset's card: what a stranger must know before use, as a page, as YAML that `datasets` reads, as Croissant.

Everything in it is counted from the dataset or taken from the registry of sources; nothing is told by hand.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlcroissant as mlc
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from irgpt_lib.irtd.record import SCHEMA
from irgpt_lib.irtd.sources.source import Source

IMAGES = ("infrared", "visible")
TABLES = ("samples", "questions", "conversations")
NAME = "IR-TD"
LICENSE = "other"
CROISSANT = "croissant.json"
CARD = "README.md"
SIZES = (1_000, 10_000, 100_000, 1_000_000)
MEANING = {
    "sample_id": "unique name: source and record",
    "source": "name in the registry of sources",
    "band": "nir, swir or tir",
    "kind": "scene, aerial, crowd, montage or object",
    "width": "of the infrared image, pixels",
    "height": "of the infrared image, pixels",
    "infrared": "the infrared image, PNG or JPEG",
    "visible": "the visible image of the pair, null where there is none",
    "authentic": "whether an infrared camera took the image; false for simulated ones",
    "group": "what no split may divide: scene, sequence, identities, near-duplicates",
    "split": "pretrain, instruction or benchmark",
    "scene": "class of the scene, empty where unknown",
    "boxes": "objects: category and corners in pixels of the infrared image, identity where known",
    "points": "objects annotated by a point, pixels",
    "counted": "the category whose instances are all annotated, empty where that is unknown",
    "montage_answer": "Re-ID: the cell (2-8) with the person of cell 1, 0 elsewhere",
    "caption": "text of the image",
    "caption_path": "IV: described from the visible image; V: rules over labels; simulated: facts of a simulated scene",
    "caption_from": "the sample that the caption describes; another one only where a simulated caption was swapped",
    "caption_state": "draft, final or reviewed by a person",
    "caption_draft": "path IV: the text before its adaptation to infrared",
    "caption_by": "who or what wrote the caption",
    "perceptual_hash": "64-bit DCT hash of the infrared image; all zeros: not compared",
    "origin": "file in the source's raw folder",
    "facts": "further facts of the recording, key and value",
}
CROISSANT_TYPES = {
    "string": mlc.DataType.TEXT,
    "large_string": mlc.DataType.TEXT,
    "bool": mlc.DataType.BOOL,
    "int8": mlc.DataType.INTEGER,
    "int32": mlc.DataType.INTEGER,
}


def yaml_feature(name: str, kind: pa.DataType) -> dict[str, Any]:
    """One column in the card's YAML, which the library `datasets` takes its features from."""
    if name in IMAGES:
        return {"name": name, "dtype": "image"}
    if pa.types.is_list(kind):
        inner = kind.value_type
        described = [yaml_feature(f.name, f.type) for f in inner] if pa.types.is_struct(inner) else str(inner)
        return {"name": name, "list": described}
    return {"name": name, "dtype": {"float": "float32"}.get(str(kind), str(kind))}


def splits_in(folder: Path) -> dict[str, list[Path]]:
    """The Parquet files of a folder by split: `<split>.parquet` or `<split>-00000.parquet`."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.parquet")):
        found.setdefault(file.stem.partition("-")[0], []).append(file)
    return found


def size_category(samples: int) -> str:
    """The Hub's words for a number of samples: `n<1K`, `1K<n<10K`, ... `1M<n<10M`."""
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")
    return names[sum(samples >= size for size in SIZES)]


def front_matter(folder: Path, samples: int) -> dict[str, Any]:
    """The card's YAML: one configuration a table, its splits and the features of its columns."""
    configs, infos = [], []
    for table in TABLES:
        splits = splits_in(folder / table)
        if not splits:
            continue
        files = [{"split": split, "path": f"{table}/{split}*.parquet"} for split in splits]
        schema = SCHEMA if table == "samples" else pq.read_schema(next(iter(splits.values()))[0])
        configs.append({"config_name": table, "data_files": files, "default": table == "samples"})
        infos.append({"config_name": table, "features": [yaml_feature(f.name, f.type) for f in schema]})
    return {
        "pretty_name": NAME,
        "license": LICENSE,
        "language": ["en"],
        "task_categories": ["visual-question-answering", "image-to-text"],
        "size_categories": [size_category(samples)],
        "tags": ["infrared", "thermal", "multimodal", "curriculum-learning"],
        "configs": configs,
        "dataset_info": infos,
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    return pd.DataFrame(rows).to_markdown(index=False)


def counts(account: Mapping[str, Any], key: str, heading: str) -> str:
    return markdown([{heading: name, "samples": n} for name, n in account[key].items()])


def source_rows(account: Mapping[str, Any], sources: Mapping[str, Source]) -> list[dict[str, Any]]:
    """One row a source that the dataset holds, with the terms that bind whoever uses it."""
    rows = []
    for name, number in account["sources"].items():
        source = sources.get(name)
        rows.append(
            {
                "source": name,
                "samples": number,
                "band": source.band if source else "simulated",
                "task of its authors": source.task if source else "none: an embedded simulated world",
                "terms": source.terms if source else "this project's own licence",
                "home": source.home if source else "this project",
            }
        )
    return rows


def doubts(account: Mapping[str, Any], sources: Mapping[str, Source]) -> list[str]:
    """What the registry holds doubtful of the sources in the dataset, under a heading; nothing where there is none."""
    told = [f"- {name}: {doubt}" for name in account["sources"] if name in sources for doubt in sources[name].doubts]
    return ["## Doubts about the sources", "\n".join(told)] if told else []


def limits(account: Mapping[str, Any]) -> list[str]:
    """What a user must not overlook, each in a sentence, from the counts."""
    told = []
    if account["simulated"]:
        told.append(
            f"{account['simulated']} of {account['samples']} images are **simulated** (`authentic` is false): no "
            "infrared camera took them, and no result on them speaks of one."
        )
    if account["swapped_captions"]:
        told.append(
            f"{account['swapped_captions']} captions were swapped on purpose (`caption_from` names whose they are), so "
            "that a detector of noisy captions can be tested."
        )
    reviewed = account["caption_states"].get("reviewed", 0)
    told.append(f"A person has read {reviewed} of {account['captioned']} captions.")
    told.append(
        "Boxes and classes are those of the sources; what their annotators left out is missing here too. "
        "Near-duplicates are found by a perceptual hash, which sees through encoding, scale and brightness, not "
        "through a flip or a crop."
    )
    told.append("The images stay under the terms of their owners, listed below; some ask for a signed agreement.")
    return told


def card(folder: Path, account: Mapping[str, Any], sources: Mapping[str, Source]) -> str:
    """The card of the dataset in `folder` as Markdown with YAML front matter; equal datasets have equal cards."""
    yaml, text = YAML(), io.StringIO()
    yaml.default_flow_style = False
    yaml.width = 4096
    yaml.dump(front_matter(folder, account["samples"]), text)
    questions = [
        {"task": task, **{split: account["questions"][split].get(task, 0) for split in account["questions"]}}
        for task in sorted({task for tasks in account["questions"].values() for task in tasks})
    ]
    rejected = [{"reason": reason, "records": n} for reason, n in account["rejected"].items()]
    columns = [{"column": f.name, "type": str(f.type).partition("<")[0], "meaning": MEANING[f.name]} for f in SCHEMA]
    parts = [
        f"---\n{text.getvalue()}---",
        f"# {NAME}: infrared images with text",
        "Built by the study's stage `dataset` in the manner of section 3 of IRGPT (ICCV 2025): raw public datasets to "
        "pre-training pairs, instruction records and a benchmark of nine tasks.",
        "```python\nfrom datasets import load_dataset\n\n"
        'samples = load_dataset("path/to/dataset", "samples")  # or "questions"\n```',
        "## Limits",
        "\n".join(f"- {sentence}" for sentence in limits(account)),
        "## Size",
        counts(account, "splits", "split"),
        counts(account, "bands", "band"),
        f"{account['paired']} samples have a visible pair.",
        "## Captions",
        counts(account, "caption_paths", "path"),
        "Path IV describes the visible image of a pair and adapts the text to infrared; path V is written by rules "
        "over labels; `simulated` from the facts of a simulated scene.",
        "## Questions",
        markdown(questions) if questions else "None.",
        "Answers are in the grammar of the release; the column `frame` says in which frame their coordinates are.",
        "## Sources and terms",
        markdown(source_rows(account, sources)),
        *doubts(account, sources),
        "## Columns of `samples`",
        markdown(columns),
        "## Left out",
        markdown(rejected) if rejected else "No record was rejected.",
        "Each with file, record and reason in `rejected.parquet`.",
    ]
    return "\n\n".join(parts) + "\n"


def file_sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def croissant_fields(table: str, schema: pa.Schema, file_set: str) -> list[mlc.Field]:
    """One Croissant field a flat column."""
    fields = []
    for column in schema:
        if column.name in IMAGES:
            kind = mlc.DataType.IMAGE_OBJECT
        elif pa.types.is_list(column.type):
            continue  # Croissant 1.0 has no lists of records read from one Parquet column
        else:
            kind = CROISSANT_TYPES[str(column.type)]
        fields.append(
            mlc.Field(
                id=f"{table}/{column.name}",
                name=column.name,
                description=MEANING.get(column.name, column.name),
                data_types=[kind],
                source=mlc.Source(file_set=file_set, extract=mlc.Extract(column=column.name)),
            )
        )
    return fields


def croissant(folder: Path, account: Mapping[str, Any], sources: Mapping[str, Source]) -> dict[str, Any]:
    """The dataset in `folder` as Croissant JSON-LD: every file with its SHA-256, every flat column with its meaning.

    Lists (boxes, points, facts) are left to the Parquet schema: Croissant 1.0 cannot read them from one column.
    """
    distribution: list[Any] = []
    record_sets = []
    for table in TABLES:
        files = [file for found in splits_in(folder / table).values() for file in found]
        if not files:
            continue
        for file in files:
            name = file.relative_to(folder).as_posix()
            distribution.append(
                mlc.FileObject(
                    id=name,
                    name=name,
                    content_url=name,
                    encoding_formats=["application/x-parquet"],
                    sha256=file_sha256(file),
                )
            )
        file_set = f"{table}-files"
        distribution.append(
            mlc.FileSet(
                id=file_set,
                name=file_set,
                encoding_formats=["application/x-parquet"],
                includes=[f"{table}/*.parquet"],
            )
        )
        fields = croissant_fields(table, pq.read_schema(files[0]), file_set)
        record_sets.append(mlc.RecordSet(id=table, name=table, fields=fields))
    metadata = mlc.Metadata(
        name=NAME,
        description="Infrared images with captions and questions of nine tasks. " + " ".join(limits(account)),
        license=[LICENSE],
        url="https://github.com/WheatCao/ICCV2025-IRGPT",
        cite_as="IRGPT: Understanding Real-world Infrared Image with Bi-cross-modal Curriculum on Large-scale "
        "Benchmark (ICCV 2025)",
        version="1.0.0",
        distribution=distribution,
        record_sets=record_sets,
    )
    return json.loads(json.dumps(metadata.to_json(), default=str))


def write_card(folder: Path, account: Mapping[str, Any], sources: Mapping[str, Source]) -> None:
    """Write `README.md` and `croissant.json` into the dataset's folder, from what lies in it."""
    (folder / CARD).write_text(card(folder, account, sources), encoding="utf-8")
    text = json.dumps(croissant(folder, account, sources), indent=1, sort_keys=True, ensure_ascii=False)
    (folder / CROISSANT).write_text(text + "\n", encoding="utf-8")
