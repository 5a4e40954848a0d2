"""A table to be read, before it is Markdown or LaTeX: heads, blocks of rows, cells with their marks, a note."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import pandas as pd
from tabulate import tabulate

Mark = Literal["", "best", "second"]
MARKED = {"": "{}", "best": "**{}**", "second": "<u>{}</u>"}


class Cell(NamedTuple):
    """Text with words in backticks as code, and whether it is the best or second best of its column."""

    text: str
    mark: Mark = ""


class Block(NamedTuple):
    """Rows under a title of their own, which may be empty."""

    title: str
    rows: tuple[tuple[Cell, ...], ...]


class Grid(NamedTuple):
    """`name` is its file's; every row has a cell for each of `head`; the columns `left` are set flush left."""

    name: str
    title: str
    head: tuple[str, ...]
    blocks: tuple[Block, ...]
    note: str
    left: tuple[int, ...] = (0,)


def row(*texts: str) -> tuple[Cell, ...]:
    """Cells without marks."""
    return tuple(Cell(text) for text in texts)


def checked(grid: Grid) -> Grid:
    """The grid itself.

    Raises:
        ValueError: a row has not as many cells as the head; names the grid and the row.
    """
    for block in grid.blocks:
        for cells in block.rows:
            if len(cells) != len(grid.head):
                where = f"{grid.name}, {block.title!r}, row {cells[0].text!r}" if cells else grid.name
                raise ValueError(f"{where}: {len(cells)} cells under {len(grid.head)} heads")
    return grid


def as_markdown(grid: Grid) -> str:
    """Heading, a pipe table a block, and the note.

    Raises:
        ValueError: as `checked`.
    """
    parts = [f"### {grid.title}"]
    for block in checked(grid).blocks:
        cells = [[MARKED[cell.mark].format(cell.text) for cell in cells] for cells in block.rows]
        align = ["left" if i in grid.left else "right" for i in range(len(grid.head))]
        # heads may repeat, as "paper" and "here" do
        table = tabulate(cells, grid.head, tablefmt="pipe", colalign=align, disable_numparse=True)
        parts.append(f"**{block.title}**\n\n{table}" if block.title else table)
    return "\n\n".join([*parts, grid.note]).strip() + "\n"


def ranked(values: Sequence[float], *, lower_is_better: bool) -> list[Mark]:
    """The mark of each value, ties alike, compared as they are printed; none for NaN, nor where nothing is compared."""
    printed = pd.Series(list(values), dtype=float).round(2)
    if printed.count() < 2:
        return [""] * len(printed)
    ranks = printed.rank(method="dense", ascending=lower_is_better)
    marks: dict[float, Mark] = {1.0: "best", 2.0: "second"}
    return [marks.get(rank, "") for rank in ranks]
