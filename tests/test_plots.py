import io

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from irgpt_lib.evaluation.statistics import TASKS
from irgpt_lib.irtd.record import Box, RecordError, png_bytes
from irgpt_lib.report import plots


def scores(n=60):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "distance": rng.normal(size=n),
            "clip_loss": rng.normal(2, 0.3, size=n),
            "band": ["nir", "swir", "tir"] * (n // 3),
            "tier": np.arange(n) % 5,
        }
    )


def samples(n=3):
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    colour = np.stack([gray, 255 - gray, gray], -1)
    return pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(n)],
            "infrared": [png_bytes(gray)] * n,
            "visible": [b"", *[png_bytes(colour)] * (n - 1)],
            "band": ["nir", "swir", "tir"][:n],
            "rank": range(n, 0, -1),
            "distance": 0.5,
            "clip_loss": 1.5,
            "weight": 1.0,
            "caption": "Two persons.",
            "boxes": [
                [Box("person", 1.0, 2.0, 4.0, 7.0)],
                [{"category": "car", "x1": 0, "y1": 0, "x2": 8, "y2": 4}],
                [],
            ][:n],
        }
    )


def summary(variants=("none", "cl"), tasks=TASKS):
    rows = [
        (variant, setting, task, 60.0 if variant == "cl" else 50.0, 40.0, 70.0, 10)
        for variant in variants
        for setting in ("zero_shot", "fine_tuned")
        for task in tasks
    ]
    rows += [("blind", "baseline", task, 20.0, 20.0, 20.0, 10) for task in tasks]
    return pd.DataFrame(rows, columns=["variant", "setting", "column", "mean", "low", "high", "questions"])


def history():
    first = pd.DataFrame(
        {"step": range(40), "loss": np.linspace(3, 1, 40), "tier": np.repeat(range(4), 10), "stage": 1}
    )
    return pd.concat([first, first.assign(tier=np.nan, stage=2)])


def points():
    return scores()[["distance", "band"]].assign(x=range(60), y=0.0).replace({"band": {"swir": "visible"}})


images = np.zeros((3, 8, 8), dtype=np.uint8)
FIGURES = {
    "difficulty_histograms": lambda: plots.difficulty_histograms(scores()),
    "difficulty_scatter": lambda: plots.difficulty_scatter(scores()),
    "domain_projection": lambda: plots.domain_projection(points()),
    "example_cards": lambda: plots.example_cards(samples()),
    "loss_curves": lambda: plots.loss_curves(history()),
    "task_bars": lambda: plots.task_bars(summary()),
    "image_grid": lambda: plots.image_grid(samples()),
    "reconstructions": lambda: plots.reconstructions(images, images, images),
    "headline": lambda: plots.headline(summary(), simulated=True),
}


def texts(figure):
    return " ".join(found.get_text() for found in figure.findobj(mpl.text.Text))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_drawn_twice_has_equal_bytes_without_date_or_version(name):
    data = plots.png(FIGURES[name]())
    assert data == plots.png(FIGURES[name]())
    with Image.open(io.BytesIO(data)) as image:
        assert set(image.info) == {"dpi"} and image.width <= 1600
        assert np.ptp(np.asarray(image.convert("L"))) > 100


def test_the_style_of_the_caller_is_left_alone():
    before = dict(mpl.rcParams)
    plots.difficulty_scatter(scores())
    assert dict(mpl.rcParams) == before


def test_histograms_count_every_sample_once():
    figure = plots.difficulty_histograms(scores())
    for axes in figure.axes:
        heights = [bar.get_height() for bar in axes.patches]
        assert sum(heights) == 60
        assert {to_hex(bar.get_facecolor()).upper() for bar in axes.patches} == {
            plots.BAND_COLOURS[band].upper() for band in ("nir", "swir", "tir")
        }


def test_equal_scores_are_drawn_without_a_density():
    figure = plots.difficulty_histograms(scores().assign(distance=1.0))
    lesson1, lesson2 = figure.axes
    # in the other panel a line a band, one for all, and that of the legend
    assert len(lesson1.lines) == 0 and len(lesson2.lines) == 5


def test_cards_stand_in_the_order_of_their_ranks():
    figure = plots.example_cards(samples())
    assert [panel.get_suptitle().split()[1] for panel in figure.subfigs] == ["1", "2", "3"]
    assert "no pair" in texts(figure) and "w 1.00" in texts(figure)


def test_boxes_are_drawn_where_the_record_has_them():
    figure = plots.image_grid(samples())
    box = figure.subfigs[0].axes[0].patches[0]
    # pixel edges: the canvas counts from pixel centres
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((0.5, 1.5), 3, 5)
    assert "person" in texts(figure) and "car" in texts(figure)


def test_a_variant_keeps_its_colour_whoever_stands_beside_it():
    alone, together = plots.variant_colours(["cl"]), plots.variant_colours(["l1_only", "cl", "no_alpha"])
    assert alone["cl"] == together["cl"]
    assert len(set(together.values())) == len(together)
    with pytest.raises(ValueError, match="9 variants for 8 colours"):
        plots.variant_colours([f"v{i}" for i in range(9)])


def test_the_share_of_the_gap_by_hand():
    score = pd.Series({"scene": 60.0, "location": 5.0, "reid": 10.0, "security": 100.0})
    blind = pd.Series({"scene": 20.0, "location": 20.0, "reid": 20.0, "security": 100.0})
    # (60 - 20) / 80, (20 - 5) / 20, (10 - 20) / 80; nothing is left to gain on a prior that is perfect
    np.testing.assert_allclose(plots.share_of_gap(score, blind), [0.5, 0.75, -0.125, np.nan])


def test_the_headline_shows_shares_and_says_that_the_images_are_simulated():
    figure = plots.headline(summary(tasks=("scene",)), simulated=True)
    assert [bar.get_height() for bar in figure.axes[0].patches] == pytest.approx([37.5, 50.0])
    assert "simulated images" in texts(figure)
    assert "authentic" in texts(plots.headline(summary(), simulated=False))


def test_bars_leave_out_a_task_without_questions():
    table = summary()
    table.loc[table.column == "reid", "questions"] = 0
    assert "Re-ID" in texts(plots.task_bars(summary())) and "Re-ID" not in texts(plots.task_bars(table))


def test_tiers_are_shaded_for_a_curriculum_and_not_for_a_random_order():
    ordered = plots.loss_curves(history()).axes
    assert len(ordered[0].patches) == 4 and len(ordered[1].patches) == 0
    mixed = history().assign(tier=lambda table: np.arange(len(table)) % 4)
    assert len(plots.loss_curves(mixed).axes[0].patches) == 0


def test_a_broken_image_is_named():
    rows = samples().assign(infrared=b"no image")
    with pytest.raises(RecordError, match="infrared image of s0"):
        plots.image_grid(rows)
    with pytest.raises(ValueError, match=r"x: not an 8-bit image.*float64 \(2, 2\)"):
        plots.pixels(np.zeros((2, 2)), "x")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.difficulty_scatter(scores().drop(columns="tier")), r"lacks the columns \['tier'\]"),
        (lambda: plots.difficulty_scatter(scores().assign(band="xray")), r"unknown bands \['xray'\]"),
        (lambda: plots.domain_projection(points().assign(band="tir")), "0 visible and 60 infrared"),
        (lambda: plots.image_grid(samples().iloc[:0]), "no row to show"),
        (lambda: plots.reconstructions(images[:0], images[:0], images[:0]), "no image to show"),
    ],
    ids=["column", "band", "domain", "rows", "images"],
)
def test_what_cannot_be_drawn_is_said(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def an_order(n=50, **columns):
    return pd.DataFrame({"position": range(n), "rank": range(n), "weight": 1.0} | columns)


def test_every_schedule_has_a_panel_and_an_empty_one_says_so():
    figure = plots.orders({"ascending": an_order(), "none": an_order(0), "long_one": an_order(9000)}, most=100)
    shown = {ax.get_title(): ax for ax in figure.axes if ax.get_title()}
    assert list(shown) == ["ascending", "none", "long one"]
    assert shown["ascending"].collections[0].get_offsets().tolist() == [[i, i] for i in range(50)]
    assert [text.get_text() for text in shown["none"].texts] == ["no epoch"]
    assert len(shown["none"].get_xticks()) > 1, "the axes are shared"
    positions = shown["long one"].collections[0].get_offsets()[:, 0]
    assert len(positions) == 100 and (positions[0], positions[-1]) == (0, 8999)


def test_no_order_or_one_without_ranks_is_refused():
    with pytest.raises(ValueError, match="no order to show"):
        plots.orders({})
    with pytest.raises(ValueError, match="the order x lacks|rank"):
        plots.orders({"x": an_order().drop(columns="rank")})


def found_swapped():
    rows = [(0.0, "alpha", np.nan, np.nan, np.nan), (0.1, "alpha", 0.4, 0.3, 0.45), (0.3, "alpha", 0.5, 0.4, 0.6)]
    return pd.DataFrame([*rows, (0.3, "weight", 0.6, 0.5, 0.7)], columns=["share", "score", "auc", "low", "high"])


def test_detection_shows_each_share_and_leaves_out_the_unknown():
    (ax,) = plots.detection(found_swapped()).axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["10% swapped", "30% swapped"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["alpha", "weight"]
    ten, thirty = (bar.lines[0].get_xdata() for bar in ax.containers)
    np.testing.assert_allclose(np.asarray(ten, float), [0.4, np.nan])
    np.testing.assert_allclose(np.asarray(thirty, float), [0.5, 0.6])


def test_without_a_known_area_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="no row to show"):
        plots.detection(found_swapped()[:1])
