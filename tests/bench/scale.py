"""`python -m tests.bench.scale 10000 1000000`: a build of so many generated frames, its rate and its peak memory.

Frames are small (160 x 128, JPEG) so that a million fit a disk; they lie a thousand to a sequence, as a tracking set's
do, with a box each. What is shown is that memory does not grow with the number of frames, and what one frame costs.
"""

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from PIL import Image

from irgpt_lib.irtd.build import Built, Job, build
from irgpt_lib.irtd.sources.reading import folder_source
from irgpt_lib.report.tables import markdown

FRAME = (128, 160)
SEQUENCE = 1000
SAMPLED_EVERY_S = 0.05


def write_sequence(root: Path, number: int, frames: int) -> None:
    """One sequence in LSOTB's layout: noise that drifts, so that every frame is another."""
    folder = root / f"car_{number:05}"
    if (folder / "groundtruth_rect.txt").is_file():
        return
    images = folder / "img"
    images.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (10, 12), dtype=np.uint8)).resize(
        FRAME[::-1], Image.Resampling.BICUBIC
    )
    ground = np.asarray(coarse.resize(FRAME[::-1], Image.Resampling.BICUBIC))
    for frame in range(frames):
        pixels = np.roll(ground, (frame % 37, frame % 41), (0, 1)).copy()
        pixels[40:60, 50:90] = (frame * 7) % 256
        Image.fromarray(pixels).save(images / f"{frame + 1:05}.jpg", quality=60)
    (folder / "groundtruth_rect.txt").write_text("50,40,40,20\n" * frames, encoding="utf-8")


def write_frames(root: Path, frames: int, workers: int) -> None:
    """At least so many frames below `root`, in whole sequences; what is there already stays."""
    sequences = -(-frames // SEQUENCE)
    each = min(frames, SEQUENCE)
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(write_sequence, [root] * sequences, range(sequences), [each] * sequences, chunksize=4))


def resident(process: psutil.Process) -> int:
    """Bytes that the process and its children hold, what they share counted once a process that maps it."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):
            total += one.memory_info().rss
    return total


def measured(job: Job) -> tuple[Built, float]:
    """The build, and the peak of the memory of all its processes in MB."""
    process, done, peak = psutil.Process(), threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            with suppress(psutil.Error):
                peak = max(peak, resident(process))
            time.sleep(SAMPLED_EVERY_S)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        return build(job), peak / 1e6
    finally:
        done.set()
        watcher.join()


def main() -> None:
    """Generate, build, print a row a size."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("frames", nargs="+", type=int)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="where the frames lie and stay; else a temporary folder")
    chosen = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for frames in chosen.frames:
            root = (chosen.folder or Path(scratch)) / f"frames-{frames}"
            write_frames(root, frames, chosen.workers)
            source = folder_source("tracking", root)
            out = root.with_name(f"shards-{frames}")
            job = Job(source, "tracking", root, out, workers=chosen.workers)
            built, peak = measured(job)
            rows.append(
                {
                    "frames": built.samples,
                    "shards": built.shards,
                    "workers": chosen.workers,
                    "seconds": round(built.seconds, 1),
                    "images/s": round(built.samples / built.seconds),
                    "peak MB, all processes": round(peak),
                    "rejected": sum(built.rejected.values()),
                }
            )
            print(markdown(pd.DataFrame(rows)), file=sys.stderr, flush=True)
            shutil.rmtree(out)
    print(markdown(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
