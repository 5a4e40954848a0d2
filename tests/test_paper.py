import re
from pathlib import Path

import pytest

from irgpt_lib.evaluation.statistics import COLUMNS, LOWER_IS_BETTER, SUMS
from irgpt_lib.report import paper

TEXT = Path(__file__).parents[2] / "shared" / "paper" / "irgpt-paper.txt"
CELL = re.compile(r"[0-9]+\.[0-9]{2}")


def test_table_2_has_eight_models_in_two_settings_and_the_eleven_columns():
    table = paper.table2()
    assert list(table.columns) == ["model", "setting", *COLUMNS]
    assert table.groupby("setting").model.nunique().to_dict() == {"fine_tuned": 8, "zero_shot": 8}


def test_table_2_adds_up_but_for_three_rows_that_are_off_by_one_hundredth():
    table = paper.table2().set_index(["model", "setting"])
    known = paper.rounded_sums().set_index(["model", "setting", "column"])
    off = {}
    for name, tasks in SUMS.items():
        added = table[list(tasks)].sum(axis=1).round(2)
        for row in table.index[(added - table[name]).round(2) != 0]:
            off[(*row, name)] = (table.loc[row, name], added[row])
    assert off == {key: (row.printed, row.added) for key, row in known.iterrows()}
    assert len(off) == 3
    assert (known["printed"] - known["added"]).abs().to_numpy() == pytest.approx(0.01)


def test_the_paper_underlines_the_second_best_but_in_two_columns():
    cells = paper.table2().set_index(["setting", "model"])
    wrong = {}
    for row in paper.underlined().itertuples():
        own = cells.loc[row.setting, row.column]
        second = own.rank(method="min", ascending=row.column in LOWER_IS_BETTER).eq(2)
        if not second[row.model]:
            wrong[row.setting, row.column] = (row.model, own.index[second].tolist())
    assert wrong == {
        ("fine_tuned", "recognition"): ("IRGPT (Random)", ["PandaGPT-7B"]),
        ("fine_tuned", "relationship"): ("IRGPT (Random)", ["PandaGPT-7B"]),
    }
    assert not paper.underlined().duplicated(["setting", "column"]).any()
    assert len(paper.underlined()) == 2 * len(COLUMNS)


def row_of_table2(model, setting):
    return paper.table2().set_index(["model", "setting"]).loc[(model, setting), ["psum", "nsum"]].tolist()


@pytest.mark.parametrize(
    ("row", "model"),
    [(1, "InternVL2-8B"), (2, "IRGPT (anti-CL)"), (8, "IRGPT (CL)")],
    ids=["base", "anti-CL", "CL"],
)
def test_table_3_repeats_rows_of_table_2(row, model):
    assert paper.table3().loc[row, ["psum", "nsum"]].tolist() == row_of_table2(model, "fine_tuned")


def test_table_3_names_each_combination_once():
    assert not paper.table3().duplicated(["l1", "l2", "alpha"]).any()
    assert len(paper.table3()) == 8
    assert paper.table3()[["psum", "nsum"]].notna().all(axis=None)


def test_table_4_has_six_schedules_in_two_settings():
    table = paper.table4()
    assert table.groupby("setting").schedule.nunique().to_dict() == {"fine_tuned": 6, "zero_shot": 6}
    assert len(table) == 12


@pytest.mark.parametrize("setting", ["zero_shot", "fine_tuned"])
@pytest.mark.parametrize(
    ("schedule", "model"),
    [
        ("Difficulty-Descending", "IRGPT (anti-CL)"),
        ("Random", "IRGPT (Random)"),
        ("Ascending-Stratified Random", "IRGPT (CL)"),
    ],
)
def test_table_4_repeats_rows_of_table_2(schedule, model, setting):
    table = paper.table4().set_index(["schedule", "setting"])
    assert table.loc[(schedule, setting)].tolist() == row_of_table2(model, setting)


@pytest.mark.skipif(not TEXT.is_file(), reason="needs the paper's text in ../shared/paper")
def test_every_cell_of_tables_2_to_4_is_the_paper_s():
    text = TEXT.read_text(encoding="utf-8").replace("<u>", "").replace("</u>", "")
    rows = [[cell for cell in line.split("\t") if CELL.fullmatch(cell)] for line in text.splitlines()]
    printed = [tuple(map(float, row)) for row in rows if row]

    def rows_of(table, columns):
        return [tuple(map(float, cells)) for cells in table[list(columns)].itertuples(index=False)]

    assert [row for row in printed if len(row) == 11] == rows_of(paper.table2(), COLUMNS)
    assert [row for row in printed if len(row) == 2] == rows_of(paper.table3(), ["psum", "nsum"])
    by_setting = paper.table4().pivot(index="schedule", columns="setting", values=["psum", "nsum"])
    ours = by_setting.loc[paper.table4()["schedule"].unique()]
    columns = [(name, setting) for setting in ("zero_shot", "fine_tuned") for name in ("psum", "nsum")]
    assert [row for row in printed if len(row) == 4] == rows_of(ours, columns)


def test_table_1_has_eight_properties():
    table = paper.table1().set_index("property")
    assert len(table) == 8
    assert table.loc["Pre-training image samples"].tolist() == ["118k", "190k"]


def test_the_text_contradicts_table_2_in_two_of_its_numbers():
    claims = paper.claims()
    wrong = claims[claims.quoted.notna() & (claims.quoted != claims.tabled)]
    assert dict(zip(wrong.column, zip(wrong.quoted, wrong.tabled, strict=True), strict=True)) == {
        "psum": (14.47, 21.47),
        "nsum": (-2.12, -3.62),
    }
