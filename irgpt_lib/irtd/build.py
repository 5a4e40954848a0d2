"""From a raw folder of any size to shards of checked samples: in several processes, in bounded memory, restartable.

A source's records are numbered by its adapter's listing, and shard k holds the records of one block of that listing.
Every worker walks the whole listing, which opens no image, and reads the blocks that are its own and not yet done. So
the shards' bytes depend neither on the number of workers nor on how often the build was killed.
"""

import fcntl
import hashlib
import itertools
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from irgpt_lib.irtd.near_duplicates import perceptual_hash
from irgpt_lib.irtd.pairing import semantically_paired
from irgpt_lib.irtd.principles import authenticity_faults
from irgpt_lib.irtd.record import REJECTED_SCHEMA, RecordError, Rejected, Sample
from irgpt_lib.irtd.shards import write_shard
from irgpt_lib.irtd.sources.assembly import made
from irgpt_lib.irtd.sources.files import walk
from irgpt_lib.irtd.sources.formats import FORMATS
from irgpt_lib.irtd.sources.source import MissingData, Pending, Source
from irgpt_lib.irtd.sources.storing import rejected_file, replacing

SHARD_RECORDS = 1024
LISTING_KEY = "irgpt_listing"
LIBRARY = Path(__file__).parent
REPORT_EVERY = 64
POLL_S = 0.5


class BuildInterrupted(RuntimeError):
    """A worker died or another build holds the folder; the message says what to do. Nothing that was done is lost."""


@dataclass(frozen=True)
class Job:
    """One source to build: where its raw files lie, where its shards go, how many records make a shard."""

    source: Source
    format: str
    root: Path
    folder: Path
    shard_records: int = SHARD_RECORDS
    workers: int = 1


@dataclass(frozen=True)
class Built:
    """What a build came to: shards, samples and rejected records by reason, and the shards that were already there."""

    shards: int
    resumed: int
    samples: int
    rejected: dict[str, int]
    seconds: float


def blocks(job: Job) -> Iterator[list[Pending | Rejected]]:
    """The records of the source as its adapter lists them, `job.shard_records` at a time; no image is opened."""
    found = FORMATS[job.format](job.root, job.source)
    while block := list(itertools.islice(found, job.shard_records)):
        yield block


def shard_file(job: Job, number: int) -> Path:
    return job.folder / f"shard-{number:06d}.parquet"


def recipe(job: Job) -> str:
    """What every shard depends on: the registry's entry, the format, this library, and all raw files by path, size and
    time of change. A label may lie anywhere, so that one changed file builds the source again."""
    digest = hashlib.sha256(repr((asdict(job.source), job.format, job.shard_records)).encode())
    for module in sorted(LIBRARY.rglob("*.py")):
        digest.update(module.read_bytes())
    for parent, _, names in walk(job.root):
        for name in names:
            digest.update(f"{state_of(parent / name)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def state_of(file: Path) -> str:
    """Path, size and time of change of a raw file; `absent` where it is none."""
    try:
        stat = file.stat()
        return f"{file}|{stat.st_size}|{stat.st_mtime_ns}"
    except (OSError, ValueError):
        return f"{file}|absent"


def listing_digest(made_by: str, block: list[Pending | Rejected]) -> str:
    """Fingerprint of one block: which records it lists, and how they are read."""
    digest = hashlib.sha256(made_by.encode())
    for found in block:
        digest.update(f"{found.file}|{found.record}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def is_complete(file: Path, digest: str) -> bool:
    """Whether the shard was written whole from these very records."""
    try:
        metadata = pq.read_schema(file).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return False
    return metadata.get(LISTING_KEY.encode()) == digest.encode()


def prepared(found: Pending | Rejected, sources: Mapping[str, Source]) -> Sample | Rejected:
    """A record with all that its pixels tell: read and checked, an unaligned pair cropped to its common content, held
    against the principle of authenticity (reason `not authentic`), and hashed for the search of near-duplicates."""
    item = made(found)
    if isinstance(item, Rejected):
        return item
    try:
        item = semantically_paired(item)
        if faults := authenticity_faults([item], sources):
            raise RecordError("not authentic", f"{faults[0].kind}: {faults[0].detail}")
        return replace(item, perceptual_hash=perceptual_hash(item.infrared))
    except RecordError as error:
        return Rejected(item.source, item.origin, item.sample_id, error.reason, error.detail)


def build_block(
    file: Path,
    block: list[Pending | Rejected],
    digest: str,
    sources: Mapping[str, Source],
    step: Callable[[int], None],
) -> None:
    """Read the records of one block into its shard; the rejected ones go beside it first, for the shard's own file says
    that the block is done."""
    rejected: list[Rejected] = []

    def samples() -> Iterator[Sample]:
        for number, found in enumerate(block, start=1):
            item = prepared(found, sources)
            if isinstance(item, Rejected):
                rejected.append(item)
            else:
                yield item
            if number % REPORT_EVERY == 0 or number == len(block):
                step((number - 1) % REPORT_EVERY + 1)

    with replacing(file) as draft:
        write_shard(samples(), draft, {LISTING_KEY: digest})
        with replacing(rejected_file(file)) as beside:
            pq.write_table(pa.Table.from_pylist([asdict(r) for r in rejected], REJECTED_SCHEMA), beside)


def build_part(job: Job, part: int, parts: int, step: Callable[[int], None]) -> int:
    """Build the shards `part`, `part + parts`, ... that are not complete; returns how many were.

    `step(n)` is told of every `n` records done. A worker whose parent is gone stops at the next shard.
    """
    made_by, parent, resumed = recipe(job), os.getppid(), 0
    for number, block in enumerate(blocks(job)):
        if number % parts != part:
            continue
        file, digest = shard_file(job, number), listing_digest(made_by, block)
        if is_complete(file, digest):
            resumed += 1
            step(len(block))
            continue
        if os.getppid() != parent:
            raise BuildInterrupted(f"{job.source.name}: the process that started this worker is gone")
        build_block(file, block, digest, {job.source.name: job.source}, step)
    return resumed


# what a worker process shares with the one that started it: records done, and whether to go on
_shared: tuple[Synchronized, Event] | None = None


def _share(counter: Synchronized, stop: Event) -> None:
    global _shared
    _shared = counter, stop


def _count(records: int) -> None:
    assert _shared is not None
    counter, stop = _shared
    if stop.is_set():
        raise BuildInterrupted("another worker failed")
    with counter.get_lock():
        counter.value += records


def _work(job: Job, part: int, parts: int) -> int:
    return build_part(job, part, parts, _count)


@contextmanager
def sole_builder(folder: Path) -> Iterator[None]:
    """The folder, held against a second build of it.

    Raises:
        BuildInterrupted: another process builds there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BuildInterrupted(f"{folder}: another build is at work there; wait for it or end it") from error
        yield


def build(job: Job) -> Built:
    """Build all shards of a source, going on where an earlier build of the same raw files was stopped.

    Shards are `job.folder/shard-000000.parquet` and so on, each with its `.rejected.parquet`. Shards of another
    listing are overwritten, and those beyond the last are removed.

    Raises:
        MissingData, MalformedFile: the raw folder or one of its annotation files cannot be used.
        BuildInterrupted: a worker died, or another build holds the folder.
    """
    started = time.monotonic()
    with sole_builder(job.folder):
        total = sum(len(block) for block in blocks(job))
        if not total:
            raise MissingData(f"{job.source.name}: {job.root}: no record; {job.source.what_belongs_there}")
        shards = -(-total // job.shard_records)
        for file in job.folder.glob("shard-*.parquet"):
            if int(file.name[6:12]) >= shards:
                file.unlink()
        with tqdm(total=total, unit="record", desc=job.source.name, mininterval=POLL_S) as bar:
            parts = min(job.workers, shards)
            resumed = build_part(job, 0, 1, bar.update) if parts == 1 else build_parallel(job, parts, bar)
    samples, rejected = tally(job, shards)
    return Built(shards, resumed, samples, rejected, time.monotonic() - started)


def build_parallel(job: Job, parts: int, bar: tqdm) -> int:
    """The parts of a build in as many processes."""
    # a forked copy of a notebook's kernel would inherit its threads' locks
    context = multiprocessing.get_context("spawn")
    counter, stop = context.Value("q", 0), context.Event()
    with ProcessPoolExecutor(parts, context, initializer=_share, initargs=(counter, stop)) as pool:
        running = [pool.submit(_work, job, part, parts) for part in range(parts)]
        waiting: set[Future[int]] = set(running)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=POLL_S)
                bar.update(counter.value - bar.n)
                for future in done:
                    future.result()
            return sum(future.result() for future in running)
        except BrokenProcessPool as error:
            raise BuildInterrupted(
                f"{job.source.name}: a worker died (out of memory?); finished shards are kept: run it again, or lower "
                "dataset.workers"
            ) from error
        finally:
            stop.set()


def tally(job: Job, shards: int) -> tuple[int, dict[str, int]]:
    """Samples, and rejected records by reason, from the shards' own files."""
    samples, rejected = 0, Counter[str]()
    for number in range(shards):
        file = shard_file(job, number)
        samples += pq.read_metadata(file).num_rows
        rejected.update(pq.read_table(rejected_file(file), columns=["reason"])["reason"].to_pylist())
    return samples, dict(sorted(rejected.items()))


def build_on_ray(job: Job, parts: int) -> Built:
    """The same build on a Ray cluster: `parts` tasks of Ray Data, anywhere that sees the raw folder and the shards'.

    Ray is the optional extra `ray`; `ray.init()` is the caller's, so that it may be a cluster's address.

    Raises:
        ImportError: Ray is not installed.
    """
    import ray.data

    def run(row: dict[str, int]) -> dict[str, int]:
        return {"resumed": build_part(job, row["part"], parts, lambda records: None)}

    started = time.monotonic()
    with sole_builder(job.folder):
        shards = sum(1 for _ in blocks(job))
        rows = ray.data.from_items([{"part": part} for part in range(parts)], override_num_blocks=parts)
        resumed = sum(row["resumed"] for row in rows.map(run).take_all())
    samples, rejected = tally(job, shards)
    return Built(shards, resumed, samples, rejected, time.monotonic() - started)
