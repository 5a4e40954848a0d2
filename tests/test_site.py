"""The report opens without a network and leads to every page."""

import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from irgpt_lib.report import site
from irgpt_lib.report.site import build, heading_and_purpose, read_tables, render_markdown, stages

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
HEADLINE = "| variant | score |\n|---|---|\n| cl | 0.5 |\n"


class Seen(HTMLParser):
    """What a page fetches by itself, and where its links lead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if tag == "a" and name == "href":
                self.links.append(value)
            elif name in {"src", "srcset"} or (tag == "link" and name == "href"):
                self.fetched.append(value)


def executed(path: Path, heading: str) -> Path:
    """An executed notebook with a formula, a printed line, a figure and a table."""
    cell = new_code_cell("print('hello')", id="b", execution_count=1)
    cell.outputs = [
        new_output("stream", name="stdout", text="hello\n"),
        new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"}),
        new_output("display_data", {"text/html": "<table><tr><td>1</td></tr></table>", "text/plain": "1"}),
    ]
    prose = new_markdown_cell(f"# {heading}\n\nHow hard is $w_i = \\alpha$?\n\nReads much.", id="a")
    metadata = {"language_info": {"name": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[prose, cell], metadata=metadata), path)
    return path


def small_site(folder: Path) -> list[Path]:
    names = {"03_difficulty": "Difficulty", "05_train-cl-0": "Train", "05_train-random-0": "Train"}
    notebooks = [executed(folder / "executed" / f"{stem}.ipynb", heading) for stem, heading in names.items()]
    groups = {
        "03_difficulty": {"03_difficulty": "03_difficulty"},
        "05_train": {"05_train-cl-0": "cl, seed 0", "05_train-random-0": "random, seed 0"},
    }
    return build(notebooks, folder / "report", title="Study", groups=groups, tables={"Headline": HEADLINE})


def test_pages_fetch_nothing_and_every_link_leads_to_a_page(tmp_path):
    pages = small_site(tmp_path)
    assert [page.name for page in pages] == [
        "index.html",
        "03_difficulty.html",
        "05_train-cl-0.html",
        "05_train-random-0.html",
    ]
    for page in pages:
        seen = Seen(page.read_text())
        assert all(source.startswith("data:") for source in seen.fetched), f"{page.name}: {seen.fetched}"
        assert all((page.parent / link).is_file() for link in seen.links), f"{page.name}: {seen.links}"
        assert "@import" not in page.read_text() and "url(" not in page.read_text()


def test_a_page_shows_code_output_figure_and_mathematics_without_a_script(tmp_path):
    page = small_site(tmp_path)[1].read_text()
    assert "<math" in page and "$w_i" not in page
    assert f"data:image/png;base64,{PIXEL}" in page
    assert "hello" in page and "<table>" in page
    assert "<script" not in page


def test_previous_and_next_follow_the_given_order(tmp_path):
    first, middle, last = (Seen(page.read_text()).links for page in small_site(tmp_path)[1:])
    assert first[:2] == ["index.html", "05_train-cl-0.html"]
    assert middle[:3] == ["03_difficulty.html", "index.html", "05_train-random-0.html"]
    assert last[:2] == ["05_train-cl-0.html", "index.html"]


def test_the_index_shows_the_headline_and_says_what_each_stage_asks(tmp_path):
    index = small_site(tmp_path)[0].read_text()
    assert re.search(r"<td>cl</td>\s*<td>0.5</td>", index)
    assert index.index("Headline") < index.index("Difficulty") < index.index("Train")
    assert index.count("How hard is <math") == 2
    assert "Reads much" not in index
    assert ">random, seed 0</a>" in index


def test_the_same_notebooks_give_the_same_bytes(tmp_path):
    first = {page.name: page.read_bytes() for page in small_site(tmp_path)}
    again = {page.name: page.read_bytes() for page in small_site(tmp_path)}
    assert first == again


def test_a_build_that_fails_leaves_the_old_report_as_it_was(tmp_path):
    index = small_site(tmp_path)[0]
    before = index.read_bytes()
    broken = executed(tmp_path / "executed" / "03_difficulty.ipynb", "Difficulty $a_1_2$")
    with pytest.raises(ValueError, match="03_difficulty.ipynb: cannot read the formula"):
        build(
            [broken],
            tmp_path / "report",
            title="Study",
            groups={"03_difficulty": {"03_difficulty": "x"}},
            tables={},
        )
    assert index.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_missing_notebooks_are_all_named(tmp_path):
    missing = [tmp_path / "a.ipynb", tmp_path / "b.ipynb"]
    with pytest.raises(FileNotFoundError, match=r"a\.ipynb.*b\.ipynb.*dvc repro"):
        build(missing, tmp_path / "report", title="Study", groups={"one": {"a": "a", "b": "b"}}, tables={})


def test_a_notebook_outside_every_group_is_refused(tmp_path):
    notebook = executed(tmp_path / "00_base.ipynb", "Base")
    with pytest.raises(ValueError, match="each must stand in one group"):
        build([notebook], tmp_path / "report", title="Study", groups={}, tables={})


def test_a_notebook_without_a_heading_is_refused():
    with pytest.raises(ValueError, match="# heading"):
        heading_and_purpose(new_notebook(cells=[new_markdown_cell("No heading.")]))


def test_dollars_in_code_are_no_mathematics_and_stars_in_formulas_no_emphasis():
    assert "<math" not in render_markdown("`$PATH$` and\n\n```\n$x$\n```\n")
    formula = render_markdown("$a * b$ and $c * d$")
    assert formula.count("<math") == 2 and "<em>" not in formula


def test_pages_come_in_reading_order_with_a_page_for_each_run():
    order = stages([("cl", 0), ("random", 1)])
    names = "base dataset features difficulty curriculum train evaluate ablations tables checks failures robustness"
    assert list(order) == [f"{number:02d}_{name}" for number, name in enumerate(names.split(" "))]
    assert order["10_failures"] == {"10_failures-cl-0": "10_failures"}
    assert order["05_train"] == {"05_train-cl-0": "cl, seed 0", "05_train-random-1": "random, seed 1"}


def test_the_headline_table_comes_first_and_must_exist(tmp_path):
    (tmp_path / "a_first.md").write_text("| a |\n|---|\n")
    with pytest.raises(FileNotFoundError, match="headline.md is missing"):
        read_tables(tmp_path)
    (tmp_path / "headline.md").write_text("# What came out\n\n| b |\n|---|\n")
    assert list(read_tables(tmp_path)) == ["What came out", "A first"]


def test_the_report_of_a_study_that_has_not_run_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IRGPT_ARTIFACTS", str(tmp_path))
    assert site.main() == 1
    assert "dvc repro" in capsys.readouterr().err
