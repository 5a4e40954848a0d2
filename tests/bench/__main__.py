"""`python -m tests.bench`: the table of costs, printed and written to `artifacts/bench.json`.

Processor seconds of one thread are the unit: they hold still while other work shares the machine, wall time does
not. Nothing here is asserted: a bench says what something costs, a test says whether it is right.
"""

import os

# before anything loads a library that starts its threads
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
os.environ.update(ONE_THREAD | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})

import argparse  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import pandas as pd  # noqa: E402
import torch  # noqa: E402

from irgpt_lib import artifacts  # noqa: E402
from irgpt_lib.cli.readme import machine  # noqa: E402
from irgpt_lib.report.tables import ABSENT, markdown  # noqa: E402
from tests.bench import data, generation, lesson1, lesson2, training  # noqa: E402
from tests.bench.measuring import Row  # noqa: E402

RESULTS = "bench.json"
# as train.stage2.features_mb of params.yaml
FEATURES_MB = 256


def works(quick: bool, full: bool, scratch: Path) -> list[Callable[[], Row]]:
    """Every row, to be measured in this order."""
    repeats = 3
    if quick:
        return [
            lambda: lesson1.lesson1(1500, repeats, memory=False, precision="exact"),
            lambda: lesson1.lesson1(1500, repeats, memory=False, precision="fast"),
            lambda: lesson2.lesson2(1500, repeats, memory=False),
            lambda: data.simulator(128, repeats),
            lambda: data.raw_folder(scratch, 16, repeats),
            lambda: data.built_shards(scratch, 16, repeats),
            lambda: data.sample_table(scratch, 128, repeats),
            lambda: training.first_stage(10, 2, memory=False),
            lambda: training.second_stage(10, 2, memory=False, features_mb=FEATURES_MB),
            lambda: generation.one_by_one(18, 1),
            lambda: generation.unsorted(90, 1),
        ]
    samples, steps = (10_000, 40) if full else (4000, 20)
    return [
        lambda: lesson1.lesson1(samples, repeats, memory=True, precision="exact"),
        lambda: lesson1.lesson1(samples, repeats, memory=True, precision="fast"),
        lambda: lesson2.lesson2(8000, repeats, memory=True),
        lambda: data.simulator(512, repeats),
        lambda: data.raw_folder(scratch, 100, repeats),
        lambda: data.built_shards(scratch, 100, repeats),
        lambda: data.sample_table(scratch, 1000, repeats),
        lambda: training.first_stage(steps, 5, memory=True),
        lambda: training.second_stage(steps, 5, memory=True, features_mb=0),
        lambda: training.second_stage(steps, 5, memory=True, features_mb=FEATURES_MB),
        lambda: training.second_stage(10, 5, memory=True, features_mb=FEATURES_MB, epochs=5),
        lambda: training.curriculum_cost(10, 15),
        lambda: generation.one_by_one(180, repeats),
        lambda: generation.unsorted(900, repeats),
    ]


def seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3g}"


def ratio(row: Row) -> str:
    """The median with the least and the greatest of the repeats."""
    found = sorted(row.ratios())
    middle = pd.Series(found).median() if found else None
    return f"{middle:.2f} ({found[0]:.2f}-{found[-1]:.2f})" if found else ABSENT


def table(rows: list[Row]) -> str:
    """The rows for reading."""
    cells = [
        {
            "What": f"{row.name}: {row.amount:,} {row.unit}",
            "Peer": row.peer or "none",
            "CPU-s": seconds(row.seconds("ours", "cpu_s")),
            "peer's": seconds(row.seconds("theirs", "cpu_s")),
            "Wall s": seconds(row.seconds("ours", "wall_s")),
            "peer's wall": seconds(row.seconds("theirs", "wall_s")),
            "Peer / ours, CPU": ratio(row),
            "Note": row.note,
        }
        for row in rows
    ]
    return markdown(pd.DataFrame(cells))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small inputs, no memory, about a minute")
    size.add_argument("--full", action="store_true", help="more samples in Lesson 1, more steps of training")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for measure in works(chosen.quick, chosen.full, Path(scratch)):
            rows.append(measure())
            print(f"{time.perf_counter() - began:5.0f} s  {rows[-1].name}", file=sys.stderr, flush=True)
    print(f"\nOn {machine()}; one thread, medians of interleaved repeats; above 1, ours needs less.\n")
    print(table(rows))
    kind = "quick" if chosen.quick else "full" if chosen.full else "standard"
    artifacts.write_json(RESULTS, {"machine": machine(), "size": kind, "rows": [row.record() for row in rows]})


if __name__ == "__main__":
    main()
