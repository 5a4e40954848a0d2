"""Writing a stream of samples to Parquet, whole or not at all."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from irgpt_lib.irtd.record import REJECTED_SCHEMA, SCHEMA, Rejected, Sample, to_table

BATCH_BYTES = 32 * 2**20


@dataclass
class Account:
    """What a reading came to: samples written, those without annotation, rejected records by reason."""

    samples: int = 0
    unannotated: int = 0
    boxes: int = 0
    captions: int = 0
    rejected: Counter[str] = field(default_factory=Counter)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A file beside `target` that takes its place when the block ends without error, and vanishes
    otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        # mkstemp makes private files; the result gets what an ordinary new file would have.
        mask = os.umask(0)
        os.umask(mask)
        draft.chmod(0o666 & ~mask)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def rejected_file(file: Path) -> Path:
    """`FILE.rejected.parquet` beside `FILE.parquet`."""
    return file.with_name(f"{file.stem}.rejected.parquet")


def batches(samples: Iterable[Sample], limit: int = BATCH_BYTES) -> Iterator[list[Sample]]:
    """Consecutive samples whose images come to about `limit` bytes, so that memory stays bounded."""
    batch: list[Sample] = []
    size = 0
    for sample in samples:
        batch.append(sample)
        size += len(sample.infrared) + len(sample.visible)
        if size >= limit:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def store(items: Iterable[Sample | Rejected], file: Path) -> Account:
    """Write samples to `file` and rejected records beside it (no such file where there are none).

    Both files are replaced together at the end; a failure leaves what was there before.
    """
    account = Account()
    rejected: list[Rejected] = []

    def samples() -> Iterator[Sample]:
        for item in items:
            if isinstance(item, Rejected):
                rejected.append(item)
                account.rejected[item.reason] += 1
                continue
            account.samples += 1
            account.boxes += len(item.boxes)
            account.captions += bool(item.caption)
            account.unannotated += item.facts.get("annotation") == "none"
            yield item

    with replacing(file) as draft:
        with pq.ParquetWriter(draft, SCHEMA, compression="zstd") as writer:
            for batch in batches(samples()):
                writer.write_table(to_table(batch))
        if rejected:
            with replacing(rejected_file(file)) as beside:
                pq.write_table(pa.Table.from_pylist([asdict(r) for r in rejected], REJECTED_SCHEMA), beside)
        else:
            rejected_file(file).unlink(missing_ok=True)
    return account
