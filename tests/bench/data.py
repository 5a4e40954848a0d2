"""Data: drawing simulated scenes, reading a raw folder, reading the table of samples."""

import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from irgpt_lib import params
from irgpt_lib.irtd.build import Job, build
from irgpt_lib.irtd.record import Sample, read_samples, to_table
from irgpt_lib.irtd.simulated import world
from irgpt_lib.irtd.simulated.dataset import simulated_samples
from irgpt_lib.irtd.sources import read
from irgpt_lib.irtd.sources.reading import folder_source
from tests.bench.measuring import Row, interleaved, rate, timed

FRAME = (512, 640)


def some_samples(counts: dict[str, int], seed: int = 0) -> list[Sample]:
    """Samples of the simulated world as the study makes them, so many a split."""
    simulated = params.load("dataset").dataset.simulated
    return simulated_samples(simulated.model_copy(update={"scenes": counts}), seed)


def simulator(scenes: int, repeats: int) -> Row:
    """Scenes drawn and rendered in four bands; there is no other simulator of this world to compare with."""
    config = params.load("dataset").dataset.simulated

    def draw() -> None:
        for _ in world.generate(scenes, seed=1, size=config.size_px, mix=config.mix):
            pass

    draw()
    timings = [timed(draw) for _ in range(repeats)]
    return Row(
        "simulated scenes, visible and three infrared renders",
        scenes,
        f"scenes of {config.size_px} px",
        "",
        timings,
        note=f"{rate(scenes, timings):.0f} scenes per CPU-second; no peer draws this world",
    )


def frames(count: int) -> Iterator[bytes]:
    """Smooth 640 x 512 frames with some noise, as JPEG."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: FRAME[0], : FRAME[1]]
    for number in range(count):
        smooth = 128 + 60 * np.sin(x / 90 + number) * np.cos(y / 70)
        file = io.BytesIO()
        image = (smooth + rng.normal(0, 4, FRAME)).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(file, "JPEG", quality=90)
        yield file.getvalue()


def write_frames(folder: Path, count: int) -> None:
    """A raw folder in FLIR's format, one box a frame."""
    (folder / "infrared").mkdir(parents=True)
    lines = ["image_name,class_id,xmin,xmax,ymin,ymax"]
    for number, frame in enumerate(frames(count)):
        (folder / "infrared" / f"FLIR_{number:05}.jpg").write_bytes(frame)
        lines.append(f"FLIR_{number:05}.jpg,1,100,140,200,300")
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def raw_folder(scratch: Path, count: int, repeats: int) -> Row:
    """Reading a raw folder into checked, captioned samples, against decoding its images and nothing else."""
    root = scratch / "frames"
    write_frames(root, count)
    files = sorted((root / "infrared").iterdir())

    def decode() -> None:
        for file in files:
            with Image.open(file) as image:
                image.load()

    def ours() -> None:
        found = sum(isinstance(item, Sample) for item in read("flir_csv", root))
        if found != count:
            raise RuntimeError(f"{root}: {found} of {count} frames were read")

    mine, theirs = interleaved(ours, decode, repeats)
    note = f"{rate(count, mine):.0f} images per CPU-second; the peer neither reads boxes nor checks nor captions"
    return Row("raw folder to checked samples", count, "JPEG, 640 x 512", "Pillow, decoding only", mine, theirs, note)


def built_shards(scratch: Path, count: int, repeats: int) -> Row:
    """A raw folder built into shards, against `datasets` turning the same images into Parquet with the same hash.

    Both decode every image, hash it and write it unchanged into Parquet; ours reads and checks the boxes, writes the
    captions and looks for traces of generators besides.
    """
    # the library takes seconds to load, which the quick bench need not wait for
    import datasets
    import imagehash

    datasets.disable_progress_bars()
    root = scratch / "frames-to-build"
    write_frames(root, count)
    files = [str(file) for file in sorted((root / "infrared").iterdir())]
    source = folder_source("flir_csv", root)

    def ours() -> None:
        folder = scratch / "built"
        shutil.rmtree(folder, ignore_errors=True)
        done = build(Job(source, "flir_csv", root, folder))
        if done.samples != count:
            raise RuntimeError(f"{root}: {done.samples} of {count} frames were built")

    def theirs() -> None:
        with tempfile.TemporaryDirectory(dir=scratch) as cache:
            table = datasets.Dataset.from_dict({"image": files}).cast_column("image", datasets.Image())
            hashed = table.map(
                lambda row: {"hash": str(imagehash.phash(row["image"]))}, cache_file_name=f"{cache}/hashed.arrow"
            )
            hashed.to_parquet(f"{cache}/frames.parquet")

    mine, others = interleaved(ours, theirs, repeats)
    note = f"{rate(count, mine):.0f} images per CPU-second; the peer reads no boxes and writes no captions"
    return Row("raw folder to shards", count, "JPEG, 640 x 512", "datasets: map and to_parquet", mine, others, note)


def sample_table(scratch: Path, samples: int, repeats: int) -> Row:
    """The study's table of samples as records, against pyarrow's own Python rows of the same file."""
    file = scratch / "samples.parquet"
    pq.write_table(to_table(some_samples({"pretrain": samples, "instruction": 0, "benchmark": 0})), file)
    mine, theirs = interleaved(lambda: read_samples(file), lambda: pq.read_table(file).to_pylist(), repeats)
    note = f"{rate(samples, mine):.0f} samples per CPU-second; the peer leaves dictionaries"
    return Row("table of samples to records", samples, "samples", "pyarrow to_pylist", mine, theirs, note)
