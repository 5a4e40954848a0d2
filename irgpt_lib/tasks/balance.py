"""Choosing questions so that nothing but the image gives their answers away.

The released questions can largely be answered blind: `Task.blind`, learned on one half of them, is right for 52 % of
Security, 67 % of Relationship and 66 % of Recognition on the other, where chance is below 25, 50 and 25 %. A choice
of questions is balanced where each answer is right as often as chance has it, whatever the question itself tells.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from irgpt_lib.tasks.reid import CELLS
from irgpt_lib.tasks.task import LETTERS, Question

# What one question adds to each quantity that has to stay near zero over all chosen ones.
Weights = dict[tuple[str, ...], float]
PASSES = 25
SIZES = ("1", "2", "3")
LEAST_SLACK = 1.0


def even(name: str, values: Sequence[str], right: str, *of: str) -> Weights:
    """That `right` was right, where each of `values` should be right equally often."""
    return {(name, *of, value): (value == right) - 1 / len(values) for value in values}


def one_of(question: Question) -> Weights:
    """Recognition and Scene: letters right equally often; an option right in one of so many cases that it is
    offered."""
    chosen = question.truth[0]
    weights = even("letter", LETTERS[: len(question.options)], chosen.partition(" ")[0])
    return weights | even("option", question.options, chosen.partition(") ")[2])


def yes_or_no(question: Question) -> Weights:
    """Relationship: yes as often as no, overall, for each relation and for each key."""
    sign = 1.0 if question.truth == "yes" else -1.0
    return {("all",): sign, ("kind", question.key.partition("|")[0]): sign, ("key", question.key): sign}


def cell(question: Question) -> Weights:
    """Re-ID: each cell equally often."""
    return even("cell", CELLS, question.truth)


def absent_set(question: Question) -> Weights:
    """Security: sets of one, two and three absent options equally often; every category and every letter absent as
    often as shown."""
    absent = {option.partition(") ")[2] for option in question.truth}
    weights = even("size", SIZES, str(len(absent)))
    for letter, option in zip(LETTERS, question.options, strict=True):
        weights["category", option] = weights["letter", letter] = 1.0 if option in absent else -1.0
    return weights


BALANCES: dict[str, Callable[[Question], Weights]] = {
    "recognition": one_of,
    "scene": one_of,
    "relationship": yes_or_no,
    "reid": cell,
    "security": absent_set,
}


def balanced(candidates: Sequence[Question], count: int, rng: np.random.Generator, samples: Sequence[str]) -> list[int]:
    """Indices of at most `count` candidates of one task, at most one a sample, whose blind prior is at chance.

    `samples` names each candidate's sample; several candidates of one sample widen the choice. Fewer than `count`
    come back where more would give answers away: a category that no image shows cannot be balanced in Security, for
    example, and stays out but for a few. Grounding, Location and the counting tasks have no answer to balance; theirs
    are drawn at random. Equal generators give equal choices; time grows with the number of candidates.

    Candidates are taken in random order, several times over, where they keep the quantities of `BALANCES` within a
    slack around zero (one, or half the noise of independent answers) or bring them closer to zero.

    Raises:
        ValueError: the candidates are of several tasks, or `samples` does not name as many.
    """
    if len(samples) != len(candidates):
        raise ValueError(f"{len(candidates)} candidates but {len(samples)} samples")
    if len({candidate.task for candidate in candidates}) > 1:
        raise ValueError(f"one task at a time, not {sorted({candidate.task for candidate in candidates})}")
    if not candidates:
        return []
    weigh = BALANCES.get(candidates[0].task)
    waiting = [int(i) for i in rng.permutation(len(candidates))]
    weights = [weigh(candidate) if weigh else {} for candidate in candidates]
    slack = slacks(weights, count)
    sums: dict[tuple[str, ...], float] = defaultdict(float)
    used: set[str] = set()
    chosen: list[int] = []
    for _ in range(PASSES):
        before, passed = len(chosen), []
        for i in waiting:
            if len(chosen) == count:
                return sorted(chosen)
            if samples[i] in used:
                continue
            if fits(weights[i], sums, slack):
                for name, by in weights[i].items():
                    sums[name] += by
                used.add(samples[i])
                chosen.append(i)
            else:
                passed.append(i)
        waiting = passed
        if len(chosen) == before:
            break
    return sorted(chosen)


def slacks(weights: Sequence[Weights], count: int) -> dict[tuple[str, ...], float]:
    """How far each sum may stray: half the noise that independent answers would have in `count` questions, at least
    `LEAST_SLACK`."""
    squares: Counter[tuple[str, ...]] = Counter()
    for one in weights:
        squares.update({name: by * by for name, by in one.items()})
    share = min(1.0, count / max(len(weights), 1))
    return {name: max(LEAST_SLACK, 0.5 * (square * share) ** 0.5) for name, square in squares.items()}


def fits(weights: Weights, sums: dict[tuple[str, ...], float], slack: dict[tuple[str, ...], float]) -> bool:
    """Whether every sum stays within its slack, or all of them together, in units of their slack, come closer to zero.

    The second half keeps the choice from locking: where two cells of Re-ID are both too rare, an answer of the one
    makes the other rarer still, and has to be taken nonetheless.
    """
    if all(abs(sums[name] + by) <= slack[name] for name, by in weights.items()):
        return True
    return sum(by * (2 * sums[name] + by) / slack[name] ** 2 for name, by in weights.items()) < 0
