import numpy as np
import pandas as pd
import pytest
from test_seeds import run

from irgpt_lib import params
from irgpt_lib.evaluation.seeds import gathered, means
from irgpt_lib.evaluation.statistics import COLUMNS, SUMS, TASKS
from irgpt_lib.report import grids, paper, paper_tables
from irgpt_lib.report.paper_tables import TABLES, all_compared, cells, grid, paper_cells, sign_of

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
    printed = {
        name: cells(TABLE[name], runs, apart=()).paper.dropna().tolist() for name in ("table2", "table3", "table4")
    }
    assert sorted(printed["table2"]) == sorted(paper.table2()[list(COLUMNS)].to_numpy().ravel().tolist())
    for name, source in (("table3", paper.table3()), ("table4", paper.table4())):
        assert sorted(printed[name]) == sorted(source[["psum", "nsum"]].to_numpy().ravel().tolist())


def test_rows_that_the_tables_share_agree():
    theirs = paper_cells()
    assert theirs["anti_cl", "fine_tuned", "psum"] == 433.24 and theirs["cl", "zero_shot", "nsum"] == 93.87
    assert theirs["anti_l2", "fine_tuned", "psum"] == 454.73 and theirs["l1", "fine_tuned", "nsum"] == 19.33


def test_a_variant_that_was_not_run_has_no_number_and_says_so(runs):
    row = line(cells(TABLE["table2"], runs, apart=()), variant="llava", setting="zero_shot", column="scene")
    assert not row.ran and row.sign == "not run" and row.paper == 35.89
    assert row[["mean", "low", "high", "difference", "versus", "p_holm"]].isna().all() and row["mark"] == ""
    made = grid(TABLE["table2"], cells(TABLE["table2"], runs, apart=()), means(runs), simulated=True)
    text = grids.as_markdown(made)
    assert text.count("not run") == 8 and "on simulated data" in text.splitlines()[0]


def test_ours_stand_beside_the_papers_with_the_sign_of_its_claim(runs):
    frame = cells(TABLE["table2"], runs, apart=())
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
        ({"apart": True}, "not comparable"),
        ({"apart": True, "ran": False, "versus": np.nan}, "not run"),
        ({"ran": False, "variant": "b"}, "not run"),
        ({"variant": "b"}, "reference"),
    ],
)
def test_signs(changed, sign):
    base = {"variant": "a", "reference": "b", "ran": True, "versus": 5.0, "p_holm": 0.01, "paper_versus": 2.0}
    base |= {"apart": False}
    assert sign_of(base | changed) == sign


def test_the_best_and_second_of_ours_and_of_the_papers_are_computed_each(runs):
    frame = cells(TABLE["table4"], runs, apart=())
    part = frame[(frame.setting == "fine_tuned") & (frame.column == "psum")].set_index("variant")
    assert part.loc["cl", "mark"] == part.loc["cl", "paper_mark"] == "best"
    assert part.loc["random", "mark"] == part.loc["random", "paper_mark"] == "second"
    errors = frame[(frame.setting == "fine_tuned") & (frame.column == "nsum")].set_index("variant")
    assert errors.loc["anti_cl", "mark"] == "best" and errors.loc["cl", "paper_mark"] == "best"


def test_holm_counts_the_comparisons_of_its_own_table(runs):
    frame = cells(TABLE["table4"], runs, apart=())
    tested = frame[frame.p.notna()]
    assert len(tested) == 2 * 2 * 2
    smallest = tested.sort_values("p").iloc[0]
    assert smallest.p_holm == pytest.approx(min(1.0, 8 * smallest.p))


def test_nothing_run_leaves_the_papers_rows(runs):
    none = gathered(predictions({"other": 50.0}))
    for table in TABLES:
        frame = cells(table, none, apart=())
        assert not frame.ran.any() and frame["mean"].isna().all()
        assert "not run" in grids.as_markdown(grid(table, frame, means(none), simulated=False))


def test_controls_are_compared_with_what_they_control(runs):
    levels = {"cl_constant": 65.0, "anti_cl_constant": 55.0}
    frame = cells(TABLE["controls"], gathered(predictions(levels, settings=["fine_tuned"])), apart=())
    row = line(frame, variant="anti_cl_constant", setting="fine_tuned", column="psum")
    assert row.versus == pytest.approx(-60, abs=3) and row.sign == "no claim"
    assert ("anti_cl_constant", "cl_constant") in paper_tables.pairs(TABLES, ())


def cell_texts(made, label):
    """The first row with this label in each block of a grid."""
    starts = [next(cells for cells in block.rows if cells[0].text.startswith(label)) for block in made.blocks]
    return [[cell.text for cell in cells] for cells in starts]


@pytest.fixture(scope="module")
def beside_untrained():
    return gathered(predictions(LEVELS | {"llava": 69.9}))


def test_an_untrained_miniature_is_shown_and_compared_with_nothing(beside_untrained):
    frame = cells(TABLE["table2"], beside_untrained, apart=("llava",))
    row = line(frame, variant="llava", setting="fine_tuned", column="scene")
    assert row.ran and row.sign == "not comparable" and row["mean"] == pytest.approx(70, abs=1)
    assert row[["versus", "p", "p_holm"]].isna().all() and np.isfinite(row.difference)
    made = grid(TABLE["table2"], frame, means(beside_untrained), simulated=True)
    assert cell_texts(made, "LLaVA1.5-7B (`llava`, untrained miniature)")[0][1].startswith(("69.", "70."))
    assert "says nothing about the model" in made.note
    assert ("llava", "cl") not in paper_tables.pairs(TABLES, ("llava",))


def test_a_row_that_is_compared_with_nothing_does_not_count_in_holm(beside_untrained, runs):
    own = {"variant": "none", "setting": "zero_shot", "column": "psum"}
    apart = line(cells(TABLE["table2"], beside_untrained, apart=("llava",)), **own)
    assert apart.p_holm == line(cells(TABLE["table2"], runs, apart=()), **own).p_holm
    assert apart.p_holm < line(cells(TABLE["table2"], beside_untrained, apart=()), **own).p_holm


def test_the_untrained_are_those_whose_model_params_build(monkeypatch):
    found = paper_tables.untrained("tiny")
    tree = params.read()
    assert found == {name for name, changes in tree["grid"].items() if (changes.get("model") or {}).get("shape")}
    assert found == {"pandagpt", "llava", "qwen2_vl", "internvl_large"}
    # where the method starts from random weights too, all variants are alike
    tree["common"]["model"]["shape"] = tree["grid"]["llava"]["model"]["shape"]
    monkeypatch.setattr(params, "read", lambda: tree)
    assert paper_tables.untrained("tiny") == frozenset()


def test_a_row_with_fewer_seeds_does_not_speak_for_the_power_of_the_study():
    some = gathered(pd.concat([predictions(), predictions({"l1": 60.0}, seeds=(0,))]))
    pairs = [("none", "cl"), ("l1", "cl"), ("absent", "cl"), ("random", "cl")]
    assert paper_tables.most_repeated(pairs, some) == [("none", "cl"), ("random", "cl")]
    assert paper_tables.most_repeated([("l1", "cl")], some) == [("l1", "cl")]
    assert paper_tables.most_repeated([("absent", "cl")], some) == []


def test_runs_that_share_no_seed_are_not_compared():
    some = gathered(pd.concat([predictions({"cl": 70.0}, seeds=(0,)), predictions({"random": 60.0}, seeds=(1,))]))
    assert all_compared(TABLES, some, apart=()).empty
    assert line(cells(TABLE["table4"], some, apart=()), variant="random", setting="zero_shot", column="psum").ran
    assert paper_tables.most_repeated([("random", "cl")], some) == []


def test_a_variant_of_no_table_has_one_of_its_own():
    assert paper_tables.tables_for(["cl", "tiers_5"]) == TABLES
    *same, others = paper_tables.tables_for(["cl", "two_tiers"])
    assert tuple(same) == TABLES and [row.variant for row in others.rows] == ["cl", "two_tiers"]


def test_a_table_corrects_alike_in_its_cells_and_among_all_comparisons(runs):
    compared = all_compared(TABLES, runs, apart=())
    for table in TABLES:
        own = cells(table, runs, apart=())
        own = own[own.p_holm.notna() & own.column.isin(list(SUMS))].set_index(["variant", "setting", "column"]).p_holm
        part = compared[(compared.table == table.name) & compared.column.isin(list(SUMS))]
        part = part.set_index(["a", "setting", "column"]).p_holm
        assert len(own) == len(part) and own.to_dict() == part.to_dict()


def test_every_table_ends_with_the_floors(runs):
    averages = means(runs)
    floors = [paper_tables.BASELINE_ROWS[name] for name in ("chance", "blind")]  # those that these predictions hold
    for table in TABLES:
        shown = grid(table, cells(table, runs, apart=frozenset()), averages, simulated=True)
        for block in shown.blocks:
            assert [line[0].text for line in block.rows[-len(floors) :]] == floors, (table.name, block.title)


def test_the_headline_has_ours_the_floors_and_the_papers_rows():
    shuffled = predictions({"cl": 31.0, "none": 29.0}, settings=["shuffled"])
    made = paper_tables.headline_grid(means(gathered(pd.concat([predictions(), shuffled]))), simulated=True)
    assert [block.title for block in made.blocks] == ["zero-shot", "fine-tuned"]
    first = made.blocks[0].rows
    best, second = (next(c for c in first if c[0].text.startswith(f"`{name}`")) for name in ("cl", "random"))
    assert (best[1].mark, second[1].mark) == ("best", "second")
    # errors: the lowest wins, and `none` has it
    location = 1 + COLUMNS.index("location")
    assert best[location].mark == "" and made.blocks[0].rows[0][location].mark == "best"
    paper_row = cell_texts(made, "*paper: IRGPT (CL)*")[0]
    assert paper_row[1:] == [
        "65.12", "86.28", "36.68", "58.33", "33.55", "48.69", "328.65", "33.32", "13.25", "47.30", "93.87"
    ]  # fmt: skip
    labels = [[cells[0].text for cells in block.rows] for block in made.blocks]
    assert not any("shuffled" in text for text in labels[0])
    assert [text for text in labels[1] if "shuffled" in text] == [
        "`none`, images shuffled", "`cl`, images shuffled"
    ]  # fmt: skip
    assert "taken by no camera" in made.note and "Scene 15, Rec. 15" in made.note and "Seeds: 3." in made.note


def test_the_headline_of_one_seed_says_what_its_interval_lacks():
    made = paper_tables.headline_grid(means(gathered(predictions(seeds=(0,)))), simulated=False)
    assert "One seed leaves the noise of training out" in made.note and "simulated" not in made.title
    with pytest.raises(ValueError, match="none of none, anti_cl, random, cl was run; there are .*other"):
        paper_tables.headline_grid(means(gathered(predictions({"other": 1.0}))), simulated=True)


def test_the_papers_slips_are_three_sums_and_two_second_places():
    lines = paper_tables.slips()
    assert len(lines) == 5
    assert "InternVL2-8B, fine-tuned: the paper prints nsum 26.85, its cells add up to 26.86." in lines
    assert sum("underlines IRGPT (Random)" in line and "while PandaGPT-7B is second" in line for line in lines) == 2
