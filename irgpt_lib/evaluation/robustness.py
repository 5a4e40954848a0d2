"""The same questions over images that show the same heat differently: turned polarity and false colours.

An infrared camera's operator chooses white-hot or black-hot and a palette; what is in the image stays. A family answers
about gray and coloured tiles alike, so a transform applies to what `Family.read` gives, after resizing, and everything
else stays as it is. What LLaVA pads an image with is then shown in the other way too.
"""

from collections.abc import Callable, Mapping

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import UInt8

from irgpt_lib.evaluation.statistics import DRAWS, LEVEL, LOWER_IS_BETTER, paired_difference, require

# Tiles, rows and columns; images of one table may differ in all of them.
Gray = UInt8[np.ndarray, "_ _ _"]
Coloured = UInt8[np.ndarray, "_ _ _ 3"]
PLAIN = "white_hot"
COLOUR_MAPS = ("inferno", "turbo", "jet", "hot")
ROBUSTNESS_COLUMNS = [
    *("task", "shown", "questions", "score", "difference", "low", "high", "p", "changed", "unread", "drop"),
]


def white_hot(image: Gray) -> Gray:
    """The image as it is: warm is bright."""
    return image


def black_hot(image: Gray) -> Gray:
    """The other polarity: warm is dark."""
    return 255 - image


def in_colours(name: str) -> Callable[[Gray], Coloured]:
    """A transform to the false colours of a Matplotlib colour map.

    Raises:
        ValueError: Matplotlib has no such map; its message lists those that it has.
    """
    table = matplotlib.colormaps.get_cmap(name)(np.arange(256), bytes=True)[:, :3]
    return lambda image: table[image]


TRANSFORMS: dict[str, Callable[[Gray], Gray | Coloured]] = {
    PLAIN: white_hot,
    "black_hot": black_hot,
    **{name: in_colours(name) for name in COLOUR_MAPS},
}


def transformed(images: Mapping[str, Gray], shown: str) -> dict[str, Gray | Coloured]:
    """The images of `answering.decoded`, each shown in one way of `TRANSFORMS`: gray, or with a last axis of three
    colours.

    Raises:
        ValueError: there is no such way; the message lists those that there are.
    """
    if shown not in TRANSFORMS:
        raise ValueError(f"no way {shown!r} to show an image; there are {', '.join(TRANSFORMS)}")
    return {name: TRANSFORMS[shown](image) for name, image in images.items()}


def robustness(predictions: pd.DataFrame, *, seed: int, draws: int = DRAWS, level: float = LEVEL) -> pd.DataFrame:
    """What each way of showing the images costs beside white-hot, one row a task and way, white-hot included.

    `predictions` holds the rows of `scoring.scored` for every way, one under the other, the way in column `shown`.
    Columns: `task`, `shown`, `questions`, `score`; `difference` to white-hot on the same questions with `low`, `high`
    and `p` (`statistics.paired_difference`); `changed` (0-1: answers of another class than in white-hot, or
    unreadable), `unread` (0-1); `drop`, the loss in the task's own sense, positive where it is worse. A difference is
    to be read beside `score`: a model that never answers loses nothing.

    Raises:
        ValueError: white-hot is absent, a question occurs twice in one way, or a way lacks questions of white-hot.
    """
    needed = ["question_id", "task", "group", "shown", "score", "answer_class", "parsed_lenient"]
    require(predictions, needed, "the predictions by way of showing")
    if twice := int(predictions.duplicated(["shown", "question_id"]).sum()):
        raise ValueError(f"{twice} questions occur twice in one way of showing; give one run in one setting")
    plain = predictions[predictions["shown"] == PLAIN].set_index("question_id")
    rows = []
    for (task, shown), own in predictions.groupby(["task", "shown"], sort=False):
        rows.append({"task": task, "shown": shown} | beside(plain, own, str(task), str(shown), seed, draws, level))
    return pd.DataFrame(rows, columns=ROBUSTNESS_COLUMNS)


def beside(
    plain: pd.DataFrame, own: pd.DataFrame, task: str, shown: str, seed: int, draws: int, level: float
) -> dict[str, float]:
    """The numbers of one row of `robustness`."""
    other = own.set_index("question_id")
    same = plain[plain["task"] == task]
    if set(same.index) != set(other.index):
        raise ValueError(f"{task}: {shown} answers {len(other)} questions and {PLAIN} {len(same)}; ask both the same")
    same = same.loc[other.index]
    differs = (other["answer_class"] != same["answer_class"]) | (other["answer_class"] == "")
    found = paired_difference(
        other["score"].to_numpy(float), same["score"].to_numpy(float), other["group"].tolist(),
        seed=seed, draws=draws, level=level,
    )  # fmt: skip
    return {
        "questions": len(other),
        "score": float(other["score"].mean()),
        **found._asdict(),
        "changed": float(differs.mean()),
        "unread": float(1 - other["parsed_lenient"].mean()),
        "drop": found.difference if task in LOWER_IS_BETTER else -found.difference,
    }
