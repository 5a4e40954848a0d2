"""Polarity and false colours: reversible, as published, and compared question by question."""

import numpy as np
import pandas as pd
import pytest
from asked import questions

from irgpt_lib.evaluation import robustness as way
from irgpt_lib.evaluation import scoring

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_black_hot_is_the_other_polarity():
    dark = way.TRANSFORMS["black_hot"](RAMP)
    assert dark[0, 0] == 255
    assert np.array_equal(way.TRANSFORMS["black_hot"](dark), RAMP)
    assert np.array_equal(way.TRANSFORMS["white_hot"](RAMP), RAMP)


@pytest.mark.parametrize("name", way.COLOUR_MAPS)
def test_a_palette_gives_every_temperature_a_colour(name):
    image = way.TRANSFORMS[name](RAMP)
    assert image.shape == (16, 16, 3)
    assert image.dtype == np.uint8
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 200


def test_the_first_and_last_colours_are_those_of_matplotlib():
    image = way.TRANSFORMS["inferno"](RAMP)
    assert image[0, 0].tolist() == [0, 0, 3]
    assert image[-1, -1].tolist() == [252, 254, 164]


def test_images_are_shown_by_name():
    shown = way.transformed({"a": RAMP, "b": RAMP}, "jet")
    assert shown.keys() == {"a", "b"}
    with pytest.raises(ValueError, match="no way 'sepia' to show an image; there are white_hot, black_hot, inferno"):
        way.transformed({}, "sepia")
    with pytest.raises(ValueError, match="sepia"):
        way.in_colours("sepia")


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
