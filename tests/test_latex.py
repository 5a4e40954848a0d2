import shutil
import subprocess

import pytest
from test_paper_tables import predictions

from irgpt_lib.evaluation.power import power_table
from irgpt_lib.evaluation.seeds import gathered, means
from irgpt_lib.report import claims, conclusions, grids, latex, paper_tables
from irgpt_lib.report.grids import Block, Cell, Grid, as_markdown, row

SMALL = Grid(
    "small",
    "A & B, 5 %",
    ("Row", "here", "here"),
    (
        Block("x ↑", ((Cell("`a_b`"), Cell("1.0 ± 0.2", "best"), Cell("-3", "second")),)),
        Block("", (row("*c*", "–", "2"),)),
    ),
    "Note: α < 1.",
)


def test_markdown_has_a_table_a_block_and_keeps_heads_that_repeat():
    lines = as_markdown(SMALL).splitlines()
    assert lines[0] == "### A & B, 5 %" and "**x ↑**" in lines and lines[-1] == "Note: α < 1."
    assert "| `a_b` | **1.0 ± 0.2** | <u>-3</u> |" in lines


def test_latex_escapes_signs_marks_and_rules():
    text = latex.table(SMALL)
    assert r"\caption{A \& B, 5 \%}" in text and r"\label{tab:small}" in text
    assert r"\texttt{a\_b} & \textbf{1.0 $\pm$ 0.2} & \underline{$-$3} \\" in text
    assert r"\emph{c} & -- & 2 \\" in text and r"$\alpha$ $<$ 1." in text
    assert text.count(r"\midrule") == 2 and r"\begin{tabular}{lrr}" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a-b -1 1-2", "a-b $-$1 1-2"),
        ("50% #1 {x} a~b\\", r"50\% \#1 \{x\} a\textasciitilde{}b\textbackslash{}"),
        ("**b** and *i*", r"\textbf{b} and \emph{i}"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("`a-1*b*`", r"\texttt{a-1*b*}"),
    ],
)
def test_inline(text, expected):
    assert latex.inline(text) == expected


def test_a_long_grid_becomes_several_tables_at_its_blocks():
    block = Block("b", (row("x", "1", "2"),) * 20)
    long = SMALL._replace(blocks=(block,) * 3)
    assert [len(part.blocks) for part in latex.parts(long)] == [1, 1, 1]
    assert [len(part.blocks) for part in latex.parts(long._replace(blocks=(block, SMALL.blocks[0], block)))] == [2, 1]
    text = latex.table(long)
    assert text.count(r"\begin{table}") == 3 and r"\label{tab:small-2}" in text and "(continued)" in text
    assert latex.parts(SMALL) == [SMALL]


def test_a_character_without_latex_is_named():
    with pytest.raises(ValueError, match=r"no LaTeX for '红' \(U\+7EA2\)"):
        latex.escaped("红")


def test_a_row_of_another_length_is_refused_by_name():
    with pytest.raises(ValueError, match=r"small, 'b', row 'x': 1 cells under 3 heads"):
        grids.checked(SMALL._replace(blocks=(Block("b", (row("x"),)),)))


def test_marks_of_ties_and_of_what_is_missing():
    assert grids.ranked([1.0, 1.001, float("nan"), 2.0], lower_is_better=True) == ["best", "best", "", "second"]
    assert grids.ranked([float("nan"), 1.0], lower_is_better=True) == ["", ""]


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_all_tables_compile_as_one_document(tmp_path):
    answers = predictions()
    runs = gathered(answers)
    averages, cells = means(runs), {t: paper_tables.cells(t, runs, apart=()) for t in paper_tables.TABLES}
    made = [paper_tables.headline_grid(averages, simulated=True)]
    made += [paper_tables.grid(t, frame, averages, simulated=True) for t, frame in cells.items()]
    checked = claims.checks(answers, apart=())
    made += [claims.claims_grid(checked, simulated=True), claims.full_claims_grid(checked, simulated=True)]
    power = power_table(runs, paper_tables.pairs(paper_tables.TABLES, ()), settings=["zero_shot", "fine_tuned"])
    made.append(conclusions.power_grid(power))
    (tmp_path / "tables.tex").write_text(latex.document(made, title="Tables"), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "too large for page" not in done.stdout and "Overfull" not in done.stdout
    assert f"({sum(len(latex.parts(grid)) for grid in made)} pages" in done.stdout
