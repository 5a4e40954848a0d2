import numpy as np
import pandas as pd
import pytest

from irgpt_lib.report.training_curves import by_tier, mixes_tiers, tier_curves


def history(tiers, loss=1.0, stage2=3):
    steps = len(tiers)
    one = pd.DataFrame({"step": range(1, steps + 1), "tier": tiers, "stage": "stage 1"})
    two = pd.DataFrame({"step": range(1, stage2 + 1), "tier": -1, "stage": "stage 2"})
    both = pd.concat([one, two] if steps else [two], ignore_index=True)
    return both.assign(loss=loss + both["tier"], gradient_norm=2.0, weighted_loss=1.0)


ASCENDING, DESCENDING = [0, 0, 1, 1, 2, 2], [2, 2, 1, 1, 0, 0]
SHUFFLED = [0, 2, 1] * 8


def test_a_row_a_tier_and_a_column_a_variant_in_the_order_of_table_2():
    table = by_tier({"cl": [history(ASCENDING)], "anti_cl": [history(DESCENDING, 3.0)], "none": [history([])]}, "loss")
    assert list(table) == ["tier", "anti_cl", "cl"]
    assert table["tier"].tolist() == [0, 1, 2]
    assert table["cl"].tolist() == [1.0, 2.0, 3.0] and table["anti_cl"].tolist() == [3.0, 4.0, 5.0]


def test_every_seed_counts_alike():
    table = by_tier({"cl": [history([0] * 9, 1.0), history([0], 3.0)]}, "loss")
    assert table["cl"].tolist() == [2.0], "not weighted by the number of steps"


def test_without_a_first_stage_there_is_no_line():
    assert by_tier({"none": [history([])]}, "loss").empty
    with pytest.raises(ValueError, match="no history has a tier"):
        tier_curves({"none": [history([])]})


def test_what_is_no_measure_is_refused():
    with pytest.raises(ValueError, match="no measure 'los'; there are loss, gradient_norm"):
        by_tier({"cl": [history(ASCENDING)]}, "los")


def test_a_history_without_gradient_norm_is_named():
    with pytest.raises(ValueError, match="training history cl"):
        by_tier({"cl": [history(ASCENDING).drop(columns="gradient_norm")]}, "loss")


@pytest.mark.parametrize(
    ("tiers", "mixed"), [(ASCENDING, False), (DESCENDING, False), (SHUFFLED, True), ([0] * 5, False), ([], False)]
)
def test_a_schedule_that_mixes_tiers_is_known_by_its_changes(tiers, mixed):
    assert mixes_tiers(pd.DataFrame({"tier": tiers})) == mixed


def test_the_figure_has_a_panel_a_measure_and_a_line_a_variant():
    figure = tier_curves(
        {"cl": [history(ASCENDING), history(ASCENDING, 3.0)], "random": [history(SHUFFLED)], "none": [history([])]}
    )
    loss, norm = figure.axes
    assert [line.get_label() for line in loss.lines] == ["random (tiers mixed)", "cl"]
    assert [line.get_linestyle() for line in loss.lines] == [":", "-"]
    np.testing.assert_array_equal(loss.lines[1].get_xydata(), [[0, 2.0], [1, 3.0], [2, 4.0]])
    assert norm.get_ylabel().startswith("gradient norm") and set(norm.lines[1].get_ydata()) == {2.0}
    assert norm.get_legend() is not None
