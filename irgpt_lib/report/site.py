"""Executed notebooks → HTML pages that open without a network, and an index that leads through them.

Mathematics becomes MathML, figures are embedded, the style sheet stands in each page: a page fetches nothing.
"""

import html
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from irgpt_lib import artifacts, params

TITLE = "IRGPT, reproduced"

_HEADING = re.compile(r"^#\s+(.+?)\s*$", re.MULTILINE)

_STYLE = """
body { font: 16px/1.55 Georgia, "Times New Roman", serif; color: #1d1d1b; background: #fff;
       max-width: 74rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
/* lines to read are short, tables as wide as the page */
p, dl, li, nav { max-width: 46rem; } .highlight, .output_stream { max-width: 62rem; }
h1, h2, h3, nav, table, .prompt { font-family: "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; } h2 { margin-top: 2.4rem; } a { color: #8a3b12; }
nav { display: flex; justify-content: space-between; gap: 1rem; font-size: .85rem; margin: .5rem 0 1.5rem; }
pre, code { font: 13px/1.45 Menlo, Consolas, monospace; }
.highlight pre, .output_stream pre, .output_text pre, .output_error pre {
       overflow-x: auto; padding: .6rem .8rem; margin: .4rem 0; }
.highlight { background: #f6f4f0; } .output_error pre { background: #fbe9e7; }
.prompt { display: none; } img, svg { max-width: min(100%, 60rem); height: auto; }
.scroll, .output_html { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; margin: .8rem 0; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #1d1d1b; }
math[display="block"] { margin: .8rem 0; overflow-x: auto; }
dt { font-weight: bold; margin-top: 1rem; } dd { margin: .1rem 0 0 1rem; }
ul.runs { columns: 2; padding-left: 1.2rem; margin: .2rem 0; }
"""


class _Prose(IPythonRenderer):
    """Markdown → HTML: mathematics as MathML, wide tables in a box of their own that scrolls."""

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return _mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return _mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")


def _mathml(latex: str, display: str) -> str:
    try:
        return convert(latex.strip(), display=display)
    except Exception as error:  # the library's errors share no base class
        raise ValueError(f"cannot read the formula {latex.strip()!r}: {type(error).__name__}") from error


def render_markdown(text: str, attachments: Mapping[str, dict[str, str]] | None = None) -> str:
    """Markdown with tables and `$mathematics$` → HTML that needs no script.

    Raises:
        ValueError: a formula cannot be read.
    """
    renderer = _Prose(escape=False, exclude_anchor_links=True, attachments=dict(attachments or {}))
    rendered = MarkdownWithMath(renderer=renderer).render(text)
    return rendered.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")


def heading_and_purpose(notebook: NotebookNode) -> tuple[str, str]:
    """A notebook's `# heading` and the Markdown paragraph below it, from its first Markdown cell.

    Raises:
        ValueError: the notebook does not begin with a Markdown cell that holds a `# heading`.
    """
    first = notebook.cells[0] if notebook.cells else None
    found = _HEADING.search(first.source) if first is not None and first.cell_type == "markdown" else None
    if first is None or found is None:
        raise ValueError("the first cell must be Markdown with a `# heading`")
    below = first.source[found.end() :].strip()
    return found[1], below.split("\n\n")[0]


def build(
    notebooks: list[Path],
    out: Path,
    *,
    title: str,
    groups: Mapping[str, Mapping[str, str]],
    tables: dict[str, str],
) -> list[Path]:
    """Write one page a notebook and `index.html`; `out` changes only when all of them are made.

    Args:
        notebooks: executed notebooks in reading order; the page of `a/05_train-cl-0.ipynb` is
            `05_train-cl-0.html`.
        out: the folder to write; what it held before is replaced.
        title: the heading of the index.
        groups: in the order of the index, a stage's name → {notebook stem: the link's text}. The first
            notebook of a group says what its stage is: its heading and the paragraph below it.
        tables: heading → Markdown table, shown above the list; the first is the headline.

    Returns:
        The pages, the index first. Equal notebooks give equal bytes.

    Raises:
        FileNotFoundError: a notebook is missing; names all that are.
        ValueError: `groups` and `notebooks` name different notebooks, one has no heading, or a formula is
            wrong.
    """
    _require(notebooks)
    _require_same([path.stem for path in notebooks], [stem for group in groups.values() for stem in group])
    read = {path.stem: nbformat.read(path, as_version=4) for path in notebooks}
    with artifacts.atomic(out) as part:
        part.mkdir()
        neighbours = _neighbours(list(read))
        for stem, notebook in read.items():
            try:
                page = _notebook_page(notebook, title, *neighbours[stem])
            except ValueError as error:
                raise ValueError(f"{stem}.ipynb: {error}") from error
            (part / f"{stem}.html").write_text(page, encoding="utf-8")
        (part / "index.html").write_text(_index_page(title, read, groups, tables), encoding="utf-8")
    return [out / "index.html", *(out / f"{stem}.html" for stem in read)]


def _require(notebooks: Sequence[Path]) -> None:
    if missing := [str(path) for path in notebooks if not path.is_file()]:
        raise FileNotFoundError(f"not executed yet: {', '.join(missing)}; `dvc repro` executes them")


def _require_same(given: list[str], grouped: list[str]) -> None:
    if sorted(given) != sorted(grouped):
        raise ValueError(f"{sorted(given)} but groups of {sorted(grouped)}: each must stand in one group")


def _neighbours(stems: list[str]) -> dict[str, tuple[str | None, str | None]]:
    """Each page's previous and next one."""
    before = {after: stem for stem, after in pairwise(stems)}
    after = dict(pairwise(stems))
    return {stem: (before.get(stem), after.get(stem)) for stem in stems}


def _notebook_page(notebook: NotebookNode, site: str, before: str | None, after: str | None) -> str:
    heading, _ = heading_and_purpose(notebook)
    exporter = HTMLExporter(
        template_name="basic",
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        filters={"markdown2html": render_markdown},
    )
    body, _ = exporter.from_notebook_node(notebook)
    back = f'<a href="{before}.html">← {before}</a>' if before else "<span></span>"
    onward = f'<a href="{after}.html">{after} →</a>' if after else "<span></span>"
    nav = f'<nav>{back}<a href="index.html">{html.escape(site)}</a>{onward}</nav>'
    return _page(f"{heading} – {site}", f"{nav}\n<main>\n{body}\n</main>\n{nav}")


def _index_page(
    title: str,
    notebooks: Mapping[str, NotebookNode],
    groups: Mapping[str, Mapping[str, str]],
    tables: Mapping[str, str],
) -> str:
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f"<h2>{html.escape(heading)}</h2>\n{render_markdown(text)}" for heading, text in tables.items()]
    parts.append("<h2>Step by step</h2>\n<dl>")
    for links in groups.values():
        heading, purpose = heading_and_purpose(notebooks[next(iter(links))])
        parts.append(_entry(heading, purpose, links))
    parts.append("</dl>")
    return _page(title, "\n".join(parts))


def _entry(heading: str, purpose: str, links: Mapping[str, str]) -> str:
    name = html.escape(heading)
    if len(links) == 1:
        name = f'<a href="{next(iter(links))}.html">{name}</a>'
        runs = ""
    else:
        anchors = [f'<a href="{stem}.html">{html.escape(text)}</a>' for stem, text in links.items()]
        items = "".join(f"<li>{anchor}</li>" for anchor in anchors)
        runs = f'<ul class="runs">{items}</ul>'
    return f"<dt>{name}</dt>\n<dd>{render_markdown(purpose)}{runs}</dd>"


def _page(title: str, body: str) -> str:
    code = HtmlFormatter(style="default", nobackground=True).get_style_defs(".highlight")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}{code}\n</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def stages(runs: Sequence[tuple[str, int]]) -> dict[str, dict[str, str]]:
    """The executed notebooks by stage, in reading order: {notebook: {stem of the executed copy: label}}."""
    labels = {artifacts.run_name(variant, seed): f"{variant}, seed {seed}" for variant, seed in runs}
    each = {name: {f"{name}-{run}": label for run, label in labels.items()} for name in artifacts.EACH_RUN}
    shown = artifacts.run_name(*params.shown_run())
    return {
        **{name: {name: name} for name in artifacts.SINGLE_RUN},
        **each,
        **{name: {name: name} for name in artifacts.ALL_RUNS},
        **{name: {f"{name}-{shown}": name} for name in artifacts.SHOWN_RUN},
    }


def read_tables(folder: Path) -> dict[str, str]:
    """The study's Markdown tables by heading; `headline.md` is the first, the others follow by name.

    The heading is the file's own `# heading` where it has one, else its name. The folder is one stage's
    output, which DVC empties before the stage runs, so what stands in it is what that stage wrote.

    Raises:
        FileNotFoundError: the folder or its `headline.md` is not there.
    """
    if not (folder / "headline.md").is_file():
        raise FileNotFoundError(f"{folder / 'headline.md'} is missing; `dvc repro tables` writes it")
    files = [file for file in folder.iterdir() if file.suffix == ".md"]
    ordered = sorted(files, key=lambda file: (file.stem != "headline", file.stem))
    return dict(_headed(file) for file in ordered)


def _headed(file: Path) -> tuple[str, str]:
    text = file.read_text(encoding="utf-8")
    found = _HEADING.match(text)
    return (found[1], text[found.end() :]) if found else (file.stem.replace("_", " ").capitalize(), text)


def main() -> int:
    """Write `artifacts/report/` from the executed notebooks of all runs and from `artifacts/tables/`."""
    logging.getLogger("traitlets").setLevel(logging.ERROR)  # else a warning for each figure
    groups = stages(params.runs())
    notebooks = [artifacts.path(f"executed/{stem}.ipynb") for group in groups.values() for stem in group]
    try:
        pages = build(
            notebooks,
            artifacts.path("report"),
            title=TITLE,
            groups=groups,
            tables=read_tables(artifacts.path("tables")),
        )
    except (FileNotFoundError, ValueError) as error:
        print(f"no report: {error}", file=sys.stderr)
        return 1
    print(f"{len(pages)} pages; begin at {pages[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
