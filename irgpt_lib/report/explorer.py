"""The difficulty explorer: one HTML page that holds every sample's scores and opens without a network.

In it the difficulty histograms and the scatter of both lessons are brushed together, λ and the number of tiers M move
(section 4.2.3), and a click shows a sample. uPlot draws the charts; the package uplot-python brings it.
"""

import base64
import html
import io
import json
import zlib
from collections.abc import Iterable
from importlib.resources import files
from string import Template
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from IPython.display import HTML
from jaxtyping import Float, Int
from PIL import Image
from scipy.stats import rankdata

from irgpt_lib.evaluation.statistics import require
from irgpt_lib.irtd.record import open_image
from irgpt_lib.report.plots import BAND_COLOURS, OTHER_COLOURS, bands_in

COLUMNS = ["sample_id", "band", "source", "kind", "distance", "clip_loss", "alpha", "weight"]
SCORES = ["distance", "clip_loss", "alpha", "weight"]
PICTURES = ["sample_id", "infrared", "visible", "caption"]
WEIGHT_STEPS = 20  # the slider's λ goes by 1/20, so that λ rank1 + (1 - λ) rank2 is exact in whole numbers
EXTREMES = 12  # as many cards as explorer.js lists
MOST_TIERS = 50
REST_COLOUR = "#999999"
JPEG_QUALITY = 80


def page(
    scores: pd.DataFrame,
    samples: pd.DataFrame,
    *,
    pictures: int = 1000,
    thumbnail_px: int = 96,
    tiers: int = 10,
    lesson1_weight: float = 0.5,
) -> str:
    """The explorer as one HTML document without any external address; equal tables give equal text.

    Every sample's scores are inside, about 25 bytes a sample; images and captions only for `pictured`.

    Args:
        scores: one row a sample: `sample_id`, `band`, `source`, `kind`, `distance` (Lesson 1, Eq. 3), `clip_loss`
            (Lesson 2, l'), `alpha` (Eq. 4) and `weight` (Eq. 5). The order of the rows does not matter.
        samples: `sample_id`, `infrared`, `visible` (encoded images; `visible` empty or null where no pair exists) and
            `caption`, at least for the ids that `pictured(scores, pictures)` lists.
        pictures: how many samples keep their images, at least; the extremes always do. About 3 kB each at 64 px.
        thumbnail_px: the longer side of an image, at most; small ones stay as they are.
        tiers: where the slider of M begins, 1-50.
        lesson1_weight: where the slider of λ begins, 0-1, a multiple of 1/20.

    Raises:
        ValueError: a column or a pictured sample is missing, an id repeats, a score is not finite, a band is unknown,
            there is no sample, or an option is outside its range.
        RecordError: an image of a pictured sample cannot be read.
    """
    _check(scores)
    require(samples, PICTURES, "the table of samples")
    step = _step(lesson1_weight)
    most_tiers = min(MOST_TIERS, len(scores))
    if not 1 <= tiers <= most_tiers:
        raise ValueError(f"{len(scores)} samples in {tiers} tiers: choose 1 to {most_tiers}")
    rows = _sorted(scores)
    ids = pictured(rows, pictures)
    place = {name: k for k, name in enumerate(ids)}
    content = {
        "n": len(rows),
        "ids": _packed(json.dumps(rows["sample_id"].tolist(), ensure_ascii=False).encode()),
        "columns": _columns(rows) | {"card": _column([place.get(name, -1) for name in rows["sample_id"]], "i4")},
        "classes": {name: _classes(rows, name) for name in ("band", "source", "kind")},
        "cards": _cards(samples, ids, thumbnail_px),
        "ramp": [mpl.colors.to_hex(colour) for colour in mpl.colormaps["viridis"](np.linspace(0, 1, 64))],
        "steps": WEIGHT_STEPS,
        "step": step,
        "tiers": tiers,
        "most_tiers": most_tiers,
        **{f"{name}_range": _range(rows[name].to_numpy()) for name in ("distance", "clip_loss", "weight")},
    }
    # JSON inside a script element must not end it
    data = json.dumps(content, sort_keys=True, ensure_ascii=False).replace("<", "\\u003c")
    return Template(_text("irgpt_lib.report", "explorer.html")).substitute(
        data=data,
        explorer_js=_text("irgpt_lib.report", "explorer.js"),
        uplot_js=_text("uplot", "static/uPlot.iife.js"),
        uplot_css=_text("uplot", "static/uPlot.min.css"),
    )


def frame(document: str, link: str, *, height: int = 1150, most_bytes: int = 2_000_000) -> HTML:
    """The page inside a notebook's output, or a link to its file where it has more than `most_bytes` bytes.

    An executed notebook is kept in git, hence the bound. Inside it, the page is the `srcdoc` of an iframe of `height`
    pixels, which JupyterLab and the report's pages show alike. `link` leads from the reader's page to the file.
    """
    length = len(document.encode())
    if length > most_bytes:
        return HTML(f'<a href="{html.escape(link)}">Difficulty explorer</a> ({length / 1e6:.1f} MB, opens offline)')
    size = f'width="100%" height="{height}" style="border: 0"'
    inner = f'<iframe title="Difficulty explorer" {size} srcdoc="{html.escape(document)}"></iframe>'
    return HTML(f"<div>{inner}</div>")  # IPython warns of a bare iframe


def pictured(scores: pd.DataFrame, pictures: int) -> list[str]:
    """The ids of the samples whose images the page holds, sorted.

    They are the 12 hardest and 12 easiest at every position of the λ slider and the 12 whose two ranks differ most, so
    that none of these lists lacks an image while nothing is brushed; then, up to `pictures`, samples evenly spaced over
    the ranking of λ = 0.5. The list is longer than `pictures` where the extremes alone are.

    Raises:
        ValueError: as `page`, or `pictures` is negative.
    """
    _check(scores)
    if pictures < 0:
        raise ValueError(f"pictures must not be negative, not {pictures}")
    rows = _sorted(scores)
    first, second = _twice_ranks(rows["distance"]), _twice_ranks(rows["clip_loss"])
    keep: set[int] = set((-np.abs(first - second)).argsort(kind="stable")[:EXTREMES].tolist())
    for step in range(WEIGHT_STEPS + 1):
        order = (step * first + (WEIGHT_STEPS - step) * second).argsort(kind="stable")
        keep |= {*order[:EXTREMES].tolist(), *order[-EXTREMES:].tolist()}
    others = [i for i in (first + second).argsort(kind="stable").tolist() if i not in keep]
    wanted = min(max(pictures - len(keep), 0), len(others))
    keep |= {others[k * len(others) // wanted] for k in range(wanted)}
    return sorted(rows["sample_id"].iloc[list(keep)])


def _check(scores: pd.DataFrame) -> None:
    require(scores, COLUMNS, "the table of scores")
    if scores.empty:
        raise ValueError("there is no sample to explore: the table of scores has no row")
    bands_in(scores[["band"]].drop_duplicates())  # refuses an unknown one
    repeated = scores["sample_id"][scores["sample_id"].duplicated()]
    if len(repeated):
        raise ValueError(f"{len(repeated)} sample ids repeat, the first is {repeated.iloc[0]!r}")
    for name in SCORES:
        bad = ~np.isfinite(scores[name].to_numpy(float))
        if bad.any():
            first = scores["sample_id"].to_numpy()[bad][0]
            raise ValueError(f"{name}: {bad.sum()} values are not finite, the first is of {first!r}")


def _step(lesson1_weight: float) -> int:
    step = round(lesson1_weight * WEIGHT_STEPS)
    if not 0 <= lesson1_weight <= 1 or abs(step - lesson1_weight * WEIGHT_STEPS) > 1e-9:
        raise ValueError(f"lesson1_weight must be a multiple of 1/{WEIGHT_STEPS} within 0 and 1, not {lesson1_weight}")
    return step


def _sorted(scores: pd.DataFrame) -> pd.DataFrame:
    """By Lesson 2, then by id: in this order a stable sort breaks ties as `ranking.combine` does (Q12)."""
    return scores.sort_values(["clip_loss", "sample_id"], kind="stable", ignore_index=True)


def _twice_ranks(values: pd.Series) -> Int[np.ndarray, " n"]:
    """Twice each value's rank from 0; equal values share the mean of theirs, twice which is whole."""
    return np.rint(2 * (rankdata(values, method="average") - 1)).astype(np.int64)


def _columns(rows: pd.DataFrame) -> dict[str, dict[str, str]]:
    ranks = {"twice_rank1": _twice_ranks(rows["distance"]), "twice_rank2": _twice_ranks(rows["clip_loss"])}
    codes = {name: pd.Categorical(rows[name], _labels(rows, name)).codes for name in ("band", "source", "kind")}
    return (
        {name: _column(rows[name], "f4") for name in SCORES}
        | {name: _column(values, "i4") for name, values in ranks.items()}
        | {name: _column(values, "u2") for name, values in codes.items()}
    )


def _labels(rows: pd.DataFrame, name: str) -> list[str]:
    """Bands by wavelength; sources and kinds from the most frequent on."""
    if name == "band":
        return bands_in(rows[["band"]].drop_duplicates())
    counts = rows[name].value_counts()
    return sorted(counts.index, key=lambda label: (-counts[label], label))


def _classes(rows: pd.DataFrame, name: str) -> dict[str, list[str]]:
    """The labels and their colours; the spare colours suffice for the eight most frequent, the rest is gray."""
    labels = _labels(rows, name)
    if name == "band":
        return {"labels": labels, "colours": [BAND_COLOURS[label] for label in labels]}
    colours = [*OTHER_COLOURS, *[REST_COLOUR] * len(labels)]
    return {"labels": labels, "colours": colours[: len(labels)]}


def _range(values: Float[np.ndarray, " n"]) -> list[float]:
    """The smallest and largest value; half a unit on both sides of a single one, for an axis needs a length."""
    low, high = float(values.min()), float(values.max())
    return [low, high] if high > low else [low - 0.5, high + 0.5]


def _column(values: Iterable[Any], kind: str) -> dict[str, str]:
    """Little-endian numbers of `kind` (f4, i4 or u2), as explorer.js reads them into a typed array."""
    return {"type": kind, "packed": _packed(np.asarray(values, dtype=f"<{kind}").tobytes())}


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def _cards(samples: pd.DataFrame, ids: list[str], px: int) -> list[dict[str, str]]:
    held = samples[samples["sample_id"].isin(ids)].set_index("sample_id")
    if missing := sorted(set(ids) - set(held.index)):
        raise ValueError(f"the table of samples lacks {len(missing)} pictured samples, the first is {missing[0]!r}")
    if not held.index.is_unique:
        raise ValueError(f"the table of samples repeats {held.index[held.index.duplicated()][0]!r}")
    return [
        {
            "caption": row.caption or "",
            "infrared": _thumbnail(row.infrared, f"infrared image of {row.Index}", "L", px),
            "visible": _thumbnail(row.visible, f"visible image of {row.Index}", "RGB", px) if row.visible else "",
        }
        for row in held.loc[ids].itertuples()
    ]


def _thumbnail(data: bytes, name: str, mode: str, px: int) -> str:
    """A JPEG of at most `px` pixels on its longer side, as a data address."""
    image = open_image(data, name).convert(mode)
    image.thumbnail((px, px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _text(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")
