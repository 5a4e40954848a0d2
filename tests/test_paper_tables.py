import numpy as np
import pandas as pd
import pytest
from test_seeds import run

from irgpt_lib.evaluation.seeds import gathered
from irgpt_lib.evaluation.statistics import COLUMNS, TASKS
from irgpt_lib.report import grids, paper, paper_tables
from irgpt_lib.report.paper_tables import TABLES, cells, grid, paper_cells, sign_of

TABLE = {table.name: table for table in TABLES}
LEVELS = {"none": 40.0, "anti_cl": 50.0, "random": 60.0, "cl": 70.0}


def predictions(levels=LEVELS, settings=("zero_shot", "fine_tuned"), seeds=(0, 1, 2)):
    """Every variant's scores lie about its level, closely."""
    rng = np.random.default_rng(0)
    parts = [
        run(level + rng.normal(0, 1, 15), variant=variant, seed=seed, setting=setting, task=task)
        for variant, level in levels.items()
        for seed in seeds
        for setting in settings
        for task in TASKS
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def runs():
    return gathered(predictions())


def line(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_the_tables_have_the_papers_rows_and_name_thirty_variants():
    count = {name: len(table.rows) * len(table.settings) for name, table in TABLE.items()}
    assert (count["table2"], count["table3"], count["table4"]) == (16, 8, 12)
    assert len(paper_tables.variants()) == 30 and set(LEVELS) < set(paper_tables.variants())


def test_each_number_of_the_papers_tables_stands_in_some_cell(runs):
    printed = {name: cells(TABLE[name], runs).paper.dropna().tolist() for name in ("table2", "table3", "table4")}
    assert sorted(printed["table2"]) == sorted(paper.table2()[list(COLUMNS)].to_numpy().ravel().tolist())
    for name, source in (("table3", paper.table3()), ("table4", paper.table4())):
        assert sorted(printed[name]) == sorted(source[["psum", "nsum"]].to_numpy().ravel().tolist())


def test_rows_that_the_tables_share_agree():
    theirs = paper_cells()
    assert theirs["anti_cl", "fine_tuned", "psum"] == 433.24 and theirs["cl", "zero_shot", "nsum"] == 93.87
    assert theirs["anti_l2", "fine_tuned", "psum"] == 454.73 and theirs["l1", "fine_tuned", "nsum"] == 19.33


def test_a_variant_that_was_not_run_has_no_number_and_says_so(runs):
    row = line(cells(TABLE["table2"], runs), variant="llava", setting="zero_shot", column="scene")
    assert not row.ran and row.sign == "not run" and row.paper == 35.89
    assert row[["mean", "low", "high", "difference", "versus", "p_holm"]].isna().all() and row["mark"] == ""
    text = grids.as_markdown(grid(TABLE["table2"], cells(TABLE["table2"], runs), runs, simulated=True))
    assert text.count("not run") == 8 and "on simulated data" in text.splitlines()[0]


def test_ours_stand_beside_the_papers_with_the_sign_of_its_claim(runs):
    frame = cells(TABLE["table2"], runs)
    better = line(frame, variant="none", setting="fine_tuned", column="scene")
    assert better.paper_versus == pytest.approx(82.14 - 85.12) and better.versus == pytest.approx(-30, abs=1)
    assert better.sign == "supports" and better.difference == pytest.approx(better["mean"] - 82.14)
    # a lower error is better, and `none` has it here but not in the paper
    assert line(frame, variant="none", setting="fine_tuned", column="location").sign == "contradicts"
    assert line(frame, variant="cl", setting="fine_tuned", column="scene").sign == "reference"


@pytest.mark.parametrize(
    ("changed", "sign"),
    [
        ({}, "supports"),
        ({"versus": -5.0}, "contradicts"),
        ({"p_holm": 0.05}, "undecided"),
        ({"p_holm": np.nan}, "not tested"),
        ({"paper_versus": np.nan}, "no claim"),
        ({"paper_versus": 0.0}, "no claim"),
        ({"versus": np.nan}, "not run"),
        ({"ran": False, "variant": "b"}, "not run"),
        ({"variant": "b"}, "reference"),
    ],
)
def test_signs(changed, sign):
    base = {"variant": "a", "reference": "b", "ran": True, "versus": 5.0, "p_holm": 0.01, "paper_versus": 2.0}
    assert sign_of(base | changed) == sign


def test_the_best_and_second_of_ours_and_of_the_papers_are_computed_each(runs):
    frame = cells(TABLE["table4"], runs)
    part = frame[(frame.setting == "fine_tuned") & (frame.column == "psum")].set_index("variant")
    assert part.loc["cl", "mark"] == part.loc["cl", "paper_mark"] == "best"
    assert part.loc["random", "mark"] == part.loc["random", "paper_mark"] == "second"
    errors = frame[(frame.setting == "fine_tuned") & (frame.column == "nsum")].set_index("variant")
    assert errors.loc["anti_cl", "mark"] == "best" and errors.loc["cl", "paper_mark"] == "best"


def test_holm_counts_the_comparisons_of_its_own_table(runs):
    frame = cells(TABLE["table4"], runs)
    tested = frame[frame.p.notna()]
    assert len(tested) == 2 * 2 * 2
    smallest = tested.sort_values("p").iloc[0]
    assert smallest.p_holm == pytest.approx(min(1.0, 8 * smallest.p))


def test_nothing_run_leaves_the_papers_rows(runs):
    none = gathered(predictions({"other": 50.0}))
    for table in TABLES:
        frame = cells(table, none)
        assert not frame.ran.any() and frame["mean"].isna().all()
        assert "not run" in grids.as_markdown(grid(table, frame, none, simulated=False))


def test_controls_are_compared_with_what_they_control(runs):
    levels = {"cl_constant": 65.0, "anti_cl_constant": 55.0}
    frame = cells(TABLE["controls"], gathered(predictions(levels, settings=["fine_tuned"])))
    row = line(frame, variant="anti_cl_constant", setting="fine_tuned", column="psum")
    assert row.versus == pytest.approx(-60, abs=3) and row.sign == "no claim"
    assert ("anti_cl_constant", "cl_constant") in paper_tables.pairs()
