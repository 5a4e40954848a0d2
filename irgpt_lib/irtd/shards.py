"""Samples in Parquet shards with their images embedded: bounded row groups, whole files or none. The dataset's card
tells the library `datasets` which columns are images."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from irgpt_lib.irtd.record import SCHEMA, Sample, from_table, to_table
from irgpt_lib.irtd.sources.storing import batches, replacing

SHARD_BYTES = 256 * 2**20
ROW_GROUP_BYTES = 16 * 2**20
IMAGES = ("infrared", "visible")
LIGHT = [name for name in SCHEMA.names if name not in IMAGES]
# PNG and JPEG do not shrink any further
COMPRESSION = {field.name: "none" if field.name in IMAGES else "zstd" for field in SCHEMA}


def write_shard(samples: Iterable[Sample], file: Path, metadata: dict[str, str] | None = None) -> int:
    """Write one shard and return its number of samples; memory holds one row group of about `ROW_GROUP_BYTES`.

    `metadata` is added to the schema's own. The file appears whole or not at all.
    """
    schema = SCHEMA.with_metadata({**SCHEMA.metadata, **(metadata or {})})
    count = 0
    with replacing(file) as draft, pq.ParquetWriter(draft, schema, compression=COMPRESSION) as writer:
        for batch in batches(samples, ROW_GROUP_BYTES):
            writer.write_table(to_table(batch).cast(schema))
            count += len(batch)
    return count


class SplitWriter:
    """Samples into `folder/<split>-00000.parquet`, a new shard of a split begun where one has reached `shard_bytes`.

    To be used as a context: on leaving it without error every file is complete; after an error none is left.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.counts: dict[str, int] = {}
        self._waiting: dict[str, list[Sample]] = {}
        self._waiting_bytes: dict[str, int] = {}
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._written: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._files: list[Path] = []

    def __enter__(self) -> "SplitWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, sample: Sample) -> None:
        """Put one sample into the shard of its split; rows are written a row group at a time."""
        split = sample.split
        self.counts[split] = self.counts.get(split, 0) + 1
        self._waiting.setdefault(split, []).append(sample)
        size = self._waiting_bytes.get(split, 0) + len(sample.infrared) + len(sample.visible)
        self._waiting_bytes[split] = size
        if size >= ROW_GROUP_BYTES:
            self._flush(split)

    def _flush(self, split: str) -> None:
        if not self._waiting.get(split):
            return
        if split not in self._writers:
            number = self._numbers.get(split, 0)
            file = self.folder / f"{split}-{number:05d}.parquet"
            self._files.append(file)
            self._numbers[split], self._written[split] = number + 1, 0
            self._writers[split] = pq.ParquetWriter(file, SCHEMA, compression=COMPRESSION)
        self._writers[split].write_table(to_table(self._waiting[split]).cast(SCHEMA))
        self._written[split] += self._waiting_bytes[split]
        self._waiting[split], self._waiting_bytes[split] = [], 0
        if self._written[split] >= self.shard_bytes:
            self._writers.pop(split).close()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            for split in list(self._waiting):
                self._flush(split)
        for writer in self._writers.values():
            writer.close()
        if kind is not None:
            for file in self._files:
                file.unlink(missing_ok=True)


def shard_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder of shards, in order.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(file for file in folder.glob("*.parquet") if not file.name.endswith(".rejected.parquet"))
    if not files:
        raise FileNotFoundError(f"{folder}: no shard (*.parquet) in it")
    return files


def read_shards(files: Iterable[Path], images: bool = True) -> Iterator[Sample]:
    """The samples of the shards in their order, a row group at a time; without `images` both image fields are empty."""
    for file in files:
        with pq.ParquetFile(file) as shard:
            for group in range(shard.num_row_groups):
                yield from from_rows(shard.read_row_group(group, columns=None if images else LIGHT))


def from_rows(table: pa.Table) -> Iterator[Sample]:
    """The samples of a table that may lack its image columns."""
    for name in IMAGES:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.binary()))
    return from_table(table)


def without_images(sample: Sample) -> Sample:
    """All that is said of a sample, without its pixels."""
    return replace(sample, infrared=b"", visible=b"")
