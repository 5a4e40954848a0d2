import numpy as np
import pandas as pd
import pytest
from test_paper_tables import predictions

from irgpt_lib.evaluation.seeds import gathered, means
from irgpt_lib.evaluation.statistics import TASKS
from irgpt_lib.report import tables
from irgpt_lib.report.grids import as_markdown


def row_of(text, name):
    lines = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in lines[0].strip("|").split("|")]


def test_both_sums_of_every_variant_stand_in_the_order_given():
    some = predictions({"cl": 70.0}), predictions({"random": 60.0}, settings=["fine_tuned"], seeds=[0])
    found = means(gathered(pd.concat(some)))
    text = as_markdown(tables.means_grid(found, ["random", "absent", "cl"], apart=("random",), simulated=True))
    assert text.index("`random`") < text.index("`cl`") and "absent" not in text
    assert row_of(text, "`random` (untrained miniature)")[1:4] == ["1", "–", "–"]
    psum, nsum = (float(cell.split()[0]) for cell in row_of(text, "`cl`")[2:4])
    assert (psum, nsum) == (pytest.approx(420, abs=3), pytest.approx(210, abs=3))
    assert "on simulated data" in text


def blind(better, worse=(0, 0), setting="fine_tuned"):
    """Two seeds of one variant, of whose nine tasks so many are better and worse than the blind prior."""
    return pd.DataFrame(
        {"variant": "cl", "seed": [0, 1], "setting": setting, "better": better, "worse": worse, "tasks": 9}
    )


def test_the_blind_prior_is_beaten_in_a_range_of_tasks():
    parts = [blind([9, 9], setting="zero_shot"), blind([7, 9]), blind([0, 0], [5, 6], "shuffled")]
    text = as_markdown(tables.blind_grid(pd.concat(parts), simulated=False))
    assert row_of(text, "`cl`")[1:] == ["2", "9", "0", "7 to 9", "0", "0", "5 to 6"]
    assert "Tasks of 9 in which" in text and "on real data" in text


def studied(task, seed=0, variant="cl", **values):
    """One row of `scoring.study_table`, with what is not said as of a model that answers well."""
    row = {"score": 80.0, "score_lenient": 90.0, "unread": 0.1, "unread_lenient": 0.0}
    row |= {"variety": 1.0, "top_share": 0.3, "top_share_truth": 0.25}
    return {"variant": variant, "seed": seed, "setting": "fine_tuned", "task": task} | row | values


def test_reading_shows_both_readings_and_the_task_whose_answers_vary_least():
    rows = [studied(task, seed) for task in TASKS for seed in (0, 1)]
    rows += [studied("reid", seed, variety=0.2, top_share=share) for seed, share in ((0, 0.6), (1, 0.8))]
    rows = [row for row in rows if row["task"] != "reid" or row["variety"] < 1]
    unknown = dict.fromkeys(("unread", "unread_lenient", "variety", "top_share", "top_share_truth"), np.nan)
    rows += [studied("psum", 0, score=400.0, score_lenient=420.0, **unknown)]
    text = as_markdown(tables.reading_grid(pd.DataFrame(rows), simulated=True))
    assert row_of(text, "`cl`")[1:] == ["400.00", "420.00", "–", "–", "10.00", "0.00", "0.20", "ReID", "70.0", "25.0"]


def test_where_no_truth_varies_no_task_is_named():
    text = as_markdown(tables.reading_grid(pd.DataFrame([studied("scene", variety=np.nan)]), simulated=True))
    assert row_of(text, "`cl`")[-4:] == ["–"] * 4


@pytest.mark.parametrize("grid", [tables.blind_grid, tables.reading_grid])
def test_a_frame_of_another_kind_is_refused_with_the_columns_it_has(grid):
    with pytest.raises(ValueError, match=r"lacks the columns .*it has \['variant'\]"):
        grid(pd.DataFrame({"variant": ["cl"]}), simulated=True)


def test_costs_add_up_by_stage_and_memory_takes_the_highest():
    costs = [
        {"stage": "train", "wall_s": 60, "cpu_s": 100.4, "peak_mb": 900},
        {"stage": "train", "wall_s": 40, "cpu_s": 100.0, "peak_mb": 700},
        {"stage": "tables", "wall_s": 5, "cpu_s": 5, "peak_mb": 200},
    ]
    text = tables.costs_table(costs)
    assert row_of(text, "`train`") == ["`train`", "2", "100", "200", "900"]
    assert row_of(text, "all") == ["all", "3", "105", "205", "900"]
    with pytest.raises(ValueError, match="lacks.*peak_mb"):
        tables.costs_table([{"stage": "train", "wall_s": 1, "cpu_s": 1}])


def test_csv_is_rounded_and_ends_its_lines_alike_everywhere():
    assert tables.to_csv(pd.DataFrame({"a": [1 / 3], "b": ["x"]})) == "a,b\n0.3333,x\n"


def test_numbers_never_read_minus_zero():
    assert tables.number(-0.001) == "0.00" and tables.signed(-0.001) == "0.00" and tables.signed(0.004) == "0.00"
    assert tables.signed(1.2) == "+1.20" and tables.number(np.nan) == "–"


README = "top\n<!-- results:start -->\nold\n<!-- results:end -->\nmiddle\n<!-- costs:start --><!-- costs:end -->\n"


def test_a_section_is_replaced_between_its_markers_and_nothing_else():
    text = tables.replace_section(README, "results", r"new \1 | row" + "\n")
    assert text == README.replace("old", r"new \1 | row")
    assert tables.replace_section(text, "results", r"new \1 | row") == text


def test_an_unknown_section_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="'claims'.*costs, results"):
        tables.replace_section(README, "claims", "x")
