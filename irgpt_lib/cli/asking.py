"""The questions of a built dataset with their images, for the commands that put them to a model or to a kit.

The commands import this module when they run: pandas takes seconds to load.
"""

from pathlib import Path

import pandas as pd

from irgpt_lib import artifacts
from irgpt_lib.cli import built, scored
from irgpt_lib.cli.telling import watched
from irgpt_lib.irtd.dataset_check import part
from irgpt_lib.irtd.sources import MissingData


def asked_of(dataset: Path | None, split: str, tasks: str, limit: int | None) -> tuple[pd.DataFrame, dict[str, bytes]]:
    """The questions of one split, at most `limit` a task, and the infrared files of their samples by sample id.

    Raises:
        MissingData: there is no such dataset, question or image.
        MalformedFile: a table cannot be read.
    """
    folder = built.dataset_folder(dataset)
    asked, _ = scored.asked_of(part(folder, artifacts.QUESTIONS), split, tasks)
    asked = asked.groupby("task", sort=False).head(limit or len(asked)).reset_index(drop=True)
    wanted = set(asked["sample_id"])
    samples = watched(built.dataset_samples(folder, split))
    images = {sample.sample_id: sample.infrared for sample in samples if sample.sample_id in wanted}
    if absent := sorted(wanted - images.keys()):
        raise MissingData(
            f"{folder}: {len(absent)} samples of questions are not in split {split}, the first {absent[0]}; "
            "`irgpt dataset check` tells all that is wrong"
        )
    return asked, images
