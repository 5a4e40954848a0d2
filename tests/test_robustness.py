"""Polarity and false colours: reversible, as published, and compared question by question."""

import numpy as np
import pandas as pd
import pytest
import torch
from asked import questions
from test_families import KINDS, frame_of, talkative

from irgpt_lib.evaluation import robustness as way
from irgpt_lib.evaluation import scoring
from irgpt_lib.report import robustness_plots as plots

RAMP = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)


def test_black_hot_is_the_other_polarity():
    dark = way.TRANSFORMS["black_hot"](RAMP)
    assert dark[0, 0, 0] == 255
    assert np.array_equal(way.TRANSFORMS["black_hot"](dark), RAMP)
    assert np.array_equal(way.TRANSFORMS["white_hot"](RAMP), RAMP)


@pytest.mark.parametrize("name", way.COLOUR_MAPS)
def test_a_palette_gives_every_temperature_a_colour(name):
    image = way.TRANSFORMS[name](RAMP)
    assert image.shape == (1, 16, 16, 3)
    assert image.dtype == np.uint8
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 200


def test_the_first_and_last_colours_are_those_of_matplotlib():
    image = way.TRANSFORMS["inferno"](RAMP)
    assert image[0, 0, 0].tolist() == [0, 0, 3]
    assert image[0, -1, -1].tolist() == [252, 254, 164]


def test_images_are_shown_by_name():
    shown = way.transformed({"a": RAMP, "b": RAMP}, "jet")
    assert shown.keys() == {"a", "b"}
    with pytest.raises(ValueError, match="no way 'sepia' to show an image; there are white_hot, black_hot, inferno"):
        way.transformed({}, "sepia")
    with pytest.raises(ValueError, match="sepia"):
        way.in_colours("sepia")


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_looks_at_colours_as_at_gray(kind):
    family = talkative(kind)
    asked = ["What?", "Is there a car on the left side of the dog?"]
    images = {str(i): family.read(frame_of(64 + 32 * i, 96)) for i in range(2)}
    ways = {"gray": {name: np.repeat(image[..., None], 3, axis=-1) for name, image in images.items()}}
    ways |= {shown: way.transformed(images, shown) for shown in ("white_hot", "jet")}
    seen = {shown: family.image_inputs(list(one.values()))["pixel_values"] for shown, one in ways.items()}
    assert torch.equal(seen["gray"], seen["white_hot"]) and not torch.equal(seen["jet"], seen["white_hot"])
    said = {shown: family.answer(asked, list(one.values()), max_new_tokens=4) for shown, one in ways.items()}
    assert said["gray"] == said["white_hot"] and len(said["jet"]) == 2


def predictions() -> pd.DataFrame:
    asked = questions(6)
    asked = asked[asked["task"].isin(["reid", "aerial_counting"])]
    true = asked["answer"].tolist()
    off = ["3" if task == "reid" else "<num>0</num>" for task in asked["task"]]
    parts = [scoring.scored(asked, out).assign(shown=shown) for shown, out in
             [("white_hot", true), ("black_hot", off), ("jet", [None] * len(asked))]]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def test_what_a_way_of_showing_costs_is_positive_where_it_is_worse():
    table = way.robustness(predictions(), seed=0, draws=50).set_index(["task", "shown"])
    assert (table.xs("white_hot", level="shown")[["difference", "drop", "changed"]] == 0).all(axis=None)
    for task in ("reid", "aerial_counting"):
        assert table.loc[(task, "jet"), "drop"] >= table.loc[(task, "black_hot"), "drop"] > 0
        assert table.loc[(task, "jet"), ["changed", "unread"]].tolist() == [1, 1]
    assert (
        table.loc[("reid", "black_hot"), "difference"] < 0 < table.loc[("aerial_counting", "black_hot"), "difference"]
    )


def test_ways_are_compared_on_the_same_questions_once():
    whole = predictions()
    with pytest.raises(ValueError, match="black_hot answers 5 questions and white_hot 6"):
        way.robustness(whole.drop(whole.index[whole["shown"] == "black_hot"][0]), seed=0, draws=5)
    with pytest.raises(ValueError, match="36 questions occur twice"):
        way.robustness(pd.concat([whole, whole]), seed=0, draws=5)
    with pytest.raises(ValueError, match="white_hot 0"):
        way.robustness(whole[whole["shown"] == "jet"], seed=0, draws=5)


# The figures


def drawn(figure) -> list:
    """The panels that are seen."""
    return [ax for ax in figure.axes if ax.get_visible()]


def test_a_drop_has_its_limits_on_the_side_where_it_is_worse():
    table = way.robustness(predictions(), seed=0, draws=50)
    limits = plots.drop_limits(table)
    assert (limits["low"] <= table["drop"]).all() and (table["drop"] <= limits["high"]).all()
    black = table["shown"] == "black_hot"
    assert (limits["high"][black] > 0).all(), "both tasks lose, one in accuracy and one in error"


def test_a_panel_a_task_shows_every_other_way_with_its_interval():
    table = way.robustness(predictions(), seed=0, draws=50)
    panels = drawn(plots.drops(table))
    assert [ax.get_title().partition(" (")[0] for ax in panels] == ["Re-ID", "Aerial counting"]
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["black-hot", "jet"]
    for ax, task in zip(panels, ["reid", "aerial_counting"], strict=True):
        own = table[(table["task"] == task) & (table["shown"] != way.PLAIN)]
        (dots,) = [line for line in ax.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(dots.get_xdata().astype(float), own["drop"])
        (bars,) = ax.collections
        ends = np.array([np.array(bar)[:, 0] for bar in bars.get_segments()])
        np.testing.assert_allclose(ends, plots.drop_limits(own).to_numpy())
    with pytest.raises(ValueError, match="there is no row"):
        plots.drops(table[table["shown"] == way.PLAIN])
    with pytest.raises(ValueError, match="drop"):
        plots.drops(table.drop(columns="drop"))


def test_a_way_of_showing_is_named_above_its_image():
    shown = {name: change(RAMP)[0] for name, change in way.TRANSFORMS.items()}
    panels = drawn(plots.ways_of_showing(shown))
    assert [ax.get_title() for ax in panels] == ["white-hot", "black-hot", *way.COLOUR_MAPS]
    assert np.array_equal(panels[-1].images[0].get_array(), shown["hot"])
    with pytest.raises(ValueError, match="at least one image"):
        plots.ways_of_showing({})
