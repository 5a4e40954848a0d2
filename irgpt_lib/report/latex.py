"""Grids as LaTeX with booktabs: a file a table for a paper to take in, and one document that compiles on its own.

pdflatex and tectonic both set it; it needs amssymb, booktabs, geometry, graphicx, lmodern and textcomp.
"""

import re
from collections.abc import Sequence

from irgpt_lib.report.grids import Block, Cell, Grid, checked

# A table that is wider than the line or nearly as high as the page is set smaller, others stay as they are.
PREAMBLE = r"""\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{amssymb,booktabs,graphicx,lmodern,textcomp}
\newsavebox{\irgpttable}
\newcommand{\irgptfit}[1]{\sbox{\irgpttable}{#1}%
  \ifdim\wd\irgpttable>\linewidth\sbox{\irgpttable}{\resizebox{\linewidth}{!}{\usebox{\irgpttable}}}\fi
  \ifdim\dimexpr\ht\irgpttable+\dp\irgpttable\relax>0.8\textheight
    \resizebox*{!}{0.8\textheight}{\usebox{\irgpttable}}\else\usebox{\irgpttable}\fi}
"""
ROWS_A_PAGE = 36
SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
}
SIGNS = {
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "✓": r"$\checkmark$",
    "✗": r"$\times$",
    "○": r"$\circ$",
    "α": r"$\alpha$",
    "∞": r"$\infty$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
}
MARKED = {"": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
NEGATIVE = re.compile(r"(?<![\w-])-(?=\d)")
CODE = re.compile(r"`([^`]*)`")
EMPHASIS = re.compile(r"(\*{1,2})(\S|\S.*?\S)\1")


def escaped(text: str) -> str:
    """Plain text as LaTeX; a hyphen before a number is a minus.

    Raises:
        ValueError: a character has no sign here and is not Latin-1; names it.
    """
    minus = NEGATIVE.sub("−", text)
    if unknown := sorted({c for c in minus if ord(c) > 255 and c not in SIGNS}):
        raise ValueError(f"no LaTeX for {unknown[0]!r} (U+{ord(unknown[0]):04X}) in {text!r}; add it to latex.SIGNS")
    return "".join(SPECIAL.get(character, SIGNS.get(character, character)) for character in minus)


def inline(text: str) -> str:
    """Text with Markdown's code, bold and italics as LaTeX."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        rf"\texttt{{{escaped(CODE.fullmatch(part)[1])}}}" if CODE.fullmatch(part) else emphasised(part)
        for part in parts
    )


def emphasised(text: str) -> str:
    done, start = [], 0
    for match in EMPHASIS.finditer(text):
        command = "textbf" if match[1] == "**" else "emph"
        done += [escaped(text[start : match.start()]), rf"\{command}{{{escaped(match[2])}}}"]
        start = match.end()
    return "".join([*done, escaped(text[start:])])


def cell(content: Cell) -> str:
    return MARKED[content.mark].format(inline(content.text))


def tabular(grid: Grid) -> str:
    """The `tabular` of a grid, a rule between blocks.

    Raises:
        ValueError: as `grids.checked`, or a character has no LaTeX.
    """
    width = len(checked(grid).head)
    align = "".join("l" if i in grid.left else "r" for i in range(width))
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
    lines += [" & ".join(map(inline, grid.head)) + r" \\"]
    for block in grid.blocks:
        lines.append(r"\midrule")
        if block.title:
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{inline(block.title)}}}}} \\")
        lines += [" & ".join(map(cell, cells)) + r" \\" for cells in block.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def parts(grid: Grid) -> list[Grid]:
    """The grid, or where it is too long for a page several, each with as many of its blocks as a page holds."""
    found: list[list[Block]] = [[]]
    for block in grid.blocks:
        if found[-1] and sum(len(own.rows) for own in [*found[-1], block]) > ROWS_A_PAGE:
            found.append([])
        found[-1].append(block)
    return [
        grid._replace(
            name=f"{grid.name}-{number}" if number > 1 else grid.name,
            title=f"{grid.title} (continued)" if number > 1 else grid.title,
            blocks=tuple(blocks),
        )
        for number, blocks in enumerate(found, start=1)
    ]


def table(grid: Grid) -> str:
    """The floating `table` of a grid, or of each of its `parts`, with caption and label `tab:<name>`; needs `PREAMBLE`.

    Raises:
        ValueError: as `tabular`.
    """
    return "\\clearpage\n".join(floating(part) for part in parts(grid))


def floating(grid: Grid) -> str:
    return "\n".join(
        [
            r"\begin{table}[!htp]",
            r"\centering\small",
            rf"\caption{{{inline(grid.title)}}}",
            rf"\label{{tab:{grid.name}}}",
            rf"\irgptfit{{{tabular(grid)}}}",
            rf"\par\smallskip\begin{{minipage}}{{\linewidth}}\footnotesize {inline(grid.note)}\end{{minipage}}",
            r"\end{table}",
            "",
        ]
    )


def document(grids: Sequence[Grid], *, title: str) -> str:
    """All grids as one document that compiles on its own, each on a page or more of its own; the title is above the
    first."""
    body = "\\clearpage\n".join(table(grid) for grid in grids)
    return (
        "\\documentclass[10pt]{article}\n\\usepackage[a4paper,landscape,margin=12mm]{geometry}\n"
        f"{PREAMBLE}\\begin{{document}}\n\\begin{{center}}\\Large {inline(title)}\\end{{center}}\n"
        f"{body}\\end{{document}}\n"
    )
