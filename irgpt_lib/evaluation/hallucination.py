"""Does a model see what is not there? Questions about absent objects beside the same questions about present ones.

The counterpart of Figure 1, in numbers, after POPE (Li et al. 2023, arXiv 2305.10355: absent categories at random) and
CHAIR (Rohrbach et al. 2018, arXiv 1809.02156: categories that a caption names). A model that says yes to everything
makes no mistake about present objects, so hits and false alarms are read together.

Probes are asked in the benchmark's own wording, for a model that was tuned on nine forms of question knows no other:

- `security` names what is absent, so each of its four options is one ask, and the only one that training rehearses;
- `relationship` with an absent subject has the answer no; its twin puts a present one there, of which it is true;
- `aerial_counting` and `pedestrian_counting` can answer 0, asked about scenes with and without a car or a person, which
  the tasks themselves never do: there is always something to count;
- `grounding` and `location` have no words for "none": all they can show is a smaller confidence (`confidence_auc`);
- `caption`, stage 1's prompt, is asked about nothing and names what it likes.

Scene, Recognition and Re-ID carry no probe: their answers choose among what is offered and assert no presence. An
object counts as absent where its source annotates its category and the sample has none of it.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from scipy.special import ndtri
from scipy.stats import beta

from irgpt_lib.evaluation.difficulty_checks import auc_intervals
from irgpt_lib.evaluation.parsing import offered, read_answer
from irgpt_lib.evaluation.statistics import DRAWS, LEVEL, limits, paired_difference, require, resample_counts
from irgpt_lib.irtd.captions import CAPTION_PROMPT, plural
from irgpt_lib.irtd.questions import QUESTION_COLUMNS, as_questions, row_of
from irgpt_lib.irtd.record import Sample
from irgpt_lib.tasks import Question
from irgpt_lib.tasks.counting import AERIAL_TEXT, CLOSE, OPEN, PEDESTRIAN_TEXT
from irgpt_lib.tasks.grounding import ASK as DETECT
from irgpt_lib.tasks.grounding import GROUNDING
from irgpt_lib.tasks.location import ASK as LOCATE
from irgpt_lib.tasks.location import LOCATION, ORDER
from irgpt_lib.tasks.relationship import RELATION, pairs_apart
from irgpt_lib.tasks.security import ask as ask_security
from irgpt_lib.tasks.task import LETTERS

CAPTION = "caption"
CANNOT_DENY = ("grounding", "location")
PROBE_COLUMNS = [*QUESTION_COLUMNS, "asked"]
CLAIM_COLUMNS = ["probe", "question_id", "sample_id", "group", "band", "category", "present", "read", "claimed"]
MEASURES = ("false_alarm", "hit", "balanced_accuracy", "d_prime")
RATE_COLUMNS = ["probe", "measure", "value", "low", "high", "absent", "present", "groups", "unread"]


class Probe(NamedTuple):
    """One question and the categories that it asks about, each with whether the sample shows it."""

    question: Question
    asked: dict[str, bool]


class Scene(NamedTuple):
    """What a probe is made of: a sample, the categories that it shows, and those that its source knows beside them."""

    sample: Sample
    present: list[str]
    absent: list[str]


def drawn(values: Sequence[str], rng: np.random.Generator) -> str:
    """One of the values, each equally likely."""
    return values[int(rng.integers(len(values)))]


def security_probes(scene: Scene, rng: np.random.Generator) -> list[Probe]:
    """The task's own question: one to three absent options among four."""
    question = ask_security(scene.sample, rng, sorted([*scene.present, *scene.absent]), ())
    return [Probe(question, {name: name in scene.present for name in question.options})] if question else []


def relationship_probes(scene: Scene, rng: np.random.Generator) -> list[Probe]:
    """A present subject on the left side of a reference, and an absent one beside the same reference."""
    pairs = pairs_apart(scene.sample)
    if not pairs or not scene.absent:
        return []
    left, right = pairs[int(rng.integers(len(pairs)))]
    twins = [(left.category, "yes"), (drawn(scene.absent, rng), "no")]
    return [
        Probe(
            Question("relationship", f"Is there a {name}{RELATION}{right.category}?", answer, answer),
            {name: answer == "yes"},
        )
        for name, answer in twins
    ]


def grounding_probes(scene: Scene, rng: np.random.Generator) -> list[Probe]:
    """The task's own question, and the same about an absent category."""
    question = GROUNDING.ask(scene.sample, rng, (), ())
    if not question or not scene.absent:
        return []
    category = max((name for name in scene.present if question.key.startswith(name)), key=len)
    other = drawn(scene.absent, rng)
    return twins(question, category, other, f"{DETECT}{other}{question.key.removeprefix(category)}.")


def location_probes(scene: Scene, rng: np.random.Generator) -> list[Probe]:
    """The task's own question, and the same about an absent category."""
    question = LOCATION.ask(scene.sample, rng, (), ())
    if not question or not scene.absent:
        return []
    other = drawn(scene.absent, rng)
    return twins(question, question.key, other, f"{LOCATE}{other}{ORDER}")


def twins(question: Question, category: str, other: str, text: str) -> list[Probe]:
    """The question about a category that is there, and `text` about one that is not: nothing answers it."""
    absent = Question(question.task, text, "", None)
    return [Probe(question, {category: True}), Probe(absent, {other: False})]


def counting_probes(category: str, task: str, text: str) -> Callable[[Scene, np.random.Generator], list[Probe]]:
    """How many of one category there are, of a scene whose source knows the category."""

    def ask(scene: Scene, rng: np.random.Generator) -> list[Probe]:
        if category not in (*scene.present, *scene.absent):
            return []
        number = sum(box.category == category for box in scene.sample.boxes)
        return [Probe(Question(task, text, f"{OPEN}{number}{CLOSE}", number), {category: number > 0})]

    return ask


def caption_probes(scene: Scene, rng: np.random.Generator) -> list[Probe]:
    """The description asked for, and every category that it could name."""
    asked = {name: name in scene.present for name in sorted([*scene.present, *scene.absent])}
    return [Probe(Question(CAPTION, CAPTION_PROMPT, scene.sample.caption, None), asked)]


PROBES: dict[str, Callable[[Scene, np.random.Generator], list[Probe]]] = {
    "security": security_probes,
    "relationship": relationship_probes,
    "aerial_counting": counting_probes("car", "aerial_counting", AERIAL_TEXT),
    "pedestrian_counting": counting_probes("person", "pedestrian_counting", PEDESTRIAN_TEXT),
    CAPTION: caption_probes,
    "grounding": grounding_probes,
    "location": location_probes,
}


def scenes_of(samples: Sequence[Sample]) -> list[Scene]:
    """The samples of kind `scene` with an object, and what each could show; see the module on what counts as absent."""
    known: dict[str, set[str]] = {}
    for sample in samples:
        known.setdefault(sample.source, set()).update(box.category for box in sample.boxes)
    found = []
    for sample in samples:
        present = {box.category for box in sample.boxes}
        # a point shows its category too, though no box does
        shown = present | {point.category for point in sample.points}
        if sample.kind == "scene" and present:
            found.append(Scene(sample, sorted(present), sorted(known[sample.source] - shown)))
    return found


def probes(samples: Sequence[Sample], each: int, *, seed: int) -> pd.DataFrame:
    """About `each` questions of every probe, of samples in an order drawn from `seed`.

    Relationship, grounding and location come as twins about one sample, a present and an absent category; the counting
    probes ask of as many scenes with the object as without it. A probe that the samples cannot carry is left out.

    Returns:
        The columns of the question table, `task` naming the probe and `split` being `probe`, and `asked`: JSON,
        category to whether it is there. Truth is null where the grammar has none.

    Raises:
        ValueError: no sample shows an object beside categories that its source knows and the sample lacks.
    """
    scenes = scenes_of(samples)
    if not any(scene.absent for scene in scenes):
        raise ValueError(
            f"no absent object can be asked for: of {len(samples)} samples {len(scenes)} are scenes with a box, and "
            "none lacks a category that its source annotates; add a source with boxes of several categories"
        )
    rows = []
    for number, (name, ask) in enumerate(PROBES.items()):
        rng = np.random.default_rng([seed, number])
        order = [scenes[int(i)] for i in rng.permutation(len(scenes))]
        asked = ((scene.sample, probe) for scene in order for probe in ask(scene, rng))
        for place, (sample, probe) in enumerate(chosen(asked, each, even=name.endswith("counting"))):
            row = row_of(probe.question, sample, "probe")
            row |= {"question_id": f"{sample.sample_id}#probe-{name}-{place}", "asked": json.dumps(probe.asked)}
            rows.append(row)
    return pd.DataFrame(rows, columns=PROBE_COLUMNS)


def chosen(asked: Iterator[tuple[Sample, Probe]], each: int, *, even: bool) -> list[tuple[Sample, Probe]]:
    """The first `each` probes; with `even` no more than half of them about present objects, and as many absent."""
    if not even:
        return [pair for _, pair in zip(range(each), asked, strict=False)]
    halves: dict[bool, list[tuple[Sample, Probe]]] = {True: [], False: []}
    for sample, probe in asked:
        own = halves[all(probe.asked.values())]
        if len(own) < each // 2:
            own.append((sample, probe))
    least = min(map(len, halves.values()))
    return [pair for half in halves.values() for pair in half[:least]]


def claims(table: pd.DataFrame, outputs: Sequence[str | None]) -> pd.DataFrame:
    """What the answers say is there: one row for every category that a probe asks about.

    `table` is what `probes` returns, `outputs` an answer a row, read leniently (`evaluation.parsing`); a caption claims
    the categories whose word it holds. Where an answer cannot be read, `read` is false and `claimed` is the wrong one
    of both, so that nothing is gained by it; a box or points that are not there are no claim.

    Returns:
        Columns `probe`, `question_id`, `sample_id`, `group`, `band`, `category`, `present`, `read`, `claimed`.

    Raises:
        ValueError: a column is missing, or there are not as many outputs as questions.
    """
    require(table, PROBE_COLUMNS, "the table of probes")
    if len(outputs) != len(table):
        raise ValueError(f"{len(table)} probes but {len(outputs)} answers")
    rows = []
    for row, question, text in zip(table.to_dict("records"), as_questions(table), outputs, strict=True):
        for category, present in json.loads(row["asked"]).items():
            said = claimed(question, category, text)
            given = (not present, False) if said is None else (said, True)
            kept = [row[name] for name in ("task", "question_id", "sample_id", "group", "band")]
            rows.append([*kept, category, present, given[1], given[0]])
    return pd.DataFrame(rows, columns=CLAIM_COLUMNS).astype(dict.fromkeys(("present", "read", "claimed"), bool))


def claimed(question: Question, category: str, text: str | None) -> bool | None:
    """Whether an answer says that the category is there; None where it cannot be read."""
    if question.task == CAPTION:
        return names(text, category) if text and text.strip() else None
    parsed = read_answer(question, text, "lenient")
    if question.task in CANNOT_DENY:
        return parsed is not None
    if parsed is None or not offered(question, parsed):
        return None
    if question.task == "security":
        return f"{LETTERS[question.options.index(category)]} {category}" not in parsed
    return parsed == "yes" if question.task == "relationship" else parsed > 0


def names(text: str, category: str) -> bool:
    """Whether a text holds the category as a word, in the singular or the plural."""
    words = "|".join(re.escape(word) for word in (category, plural(category)))
    return re.search(rf"\b(?:{words})\b", text.casefold()) is not None


def measured(counts: Float[np.ndarray, "*draws 4"]) -> Float[np.ndarray, "*draws 4"]:
    """`MEASURES` of false alarms, absent asks, hits and present asks; NaN where there is no ask of a kind.

    Rates and balanced accuracy are percent. d' = z(hit) - z(false alarm) after the log-linear correction, half a
    success in one more ask (Hautus 1995), so that it stays finite; it is NaN with the rates.
    """
    alarms, absent, hits, present = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        alarm, hit = 100 * alarms / absent, 100 * hits / present
    d_prime = ndtri((hits + 0.5) / (present + 1)) - ndtri((alarms + 0.5) / (absent + 1))
    balanced = (hit + 100 - alarm) / 2
    return np.stack([alarm, hit, balanced, np.where(np.isnan(balanced), np.nan, d_prime)], axis=-1)


def rates(
    asked: pd.DataFrame, *, by: Sequence[str] = (), seed: int, draws: int = DRAWS, level: float = LEVEL
) -> pd.DataFrame:
    """How often a model says that absent and present objects are there, and how well it tells them apart.

    `asked` is what `claims` returns, with the columns `by` added (a model, a setting). `false_alarm` and `hit` are
    percent of the absent and the present asks, `balanced_accuracy` percent (50 knows nothing), `d_prime` in standard
    deviations (0 knows nothing). Intervals are a cluster bootstrap over `group`, hits and false alarms together; a rate
    of exactly 0 or 100 %, which cannot be resampled, has the exact binomial limits of as many trials as groups.

    Returns:
        One row a value of `by`, probe and measure: the columns `by`, `probe`, `measure`, `value`, `low`, `high`,
        `absent`, `present` (numbers of asks), `groups`, `unread` (share of asks, 0-1).
    """
    require(asked, [*by, *CLAIM_COLUMNS], "the table of claims")
    rows = []
    for key, part in asked.groupby([*by, "probe"], sort=False):
        group, clusters = pd.factorize(part["group"])
        present, said = part["present"].to_numpy(), part["claimed"].to_numpy()
        columns = np.stack([said & ~present, ~present, said & present, present], axis=1).astype(float)
        sums = np.stack([np.bincount(group, weights=column, minlength=len(clusters)) for column in columns.T], axis=1)
        weights = resample_counts(len(clusters), draws if len(clusters) > 1 else 0, np.random.default_rng(seed))
        values, resampled = measured(sums.sum(0)), measured(weights @ sums)
        about = [int((~present).sum()), int(present.sum()), len(clusters), float(1 - part["read"].mean())]
        for place, measure in enumerate(MEASURES):
            low, high = limits(resampled[:, place], level)
            trials = int((sums[:, 1 if measure == "false_alarm" else 3] > 0).sum())
            if measure in ("false_alarm", "hit") and values[place] in (0, 100) and trials > 1:
                low, high = exact_limits(values[place], trials, level)
            rows.append([*key, measure, float(values[place]), low, high, *about])
    return pd.DataFrame(rows, columns=[*by, *RATE_COLUMNS])


def exact_limits(rate: float, trials: int, level: float) -> tuple[float, float]:
    """Clopper and Pearson's limits of a rate of 0 or 100 %, in percent."""
    outer = 100 * float(beta.ppf((1 + level) / 2, 1, trials))
    return (0.0, outer) if rate == 0 else (100 - outer, 100.0)


def changes(
    asked: pd.DataFrame, before: str, after: str, *, model: str, seed: int, draws: int = DRAWS, level: float = LEVEL
) -> pd.DataFrame:
    """How the false alarms and the hits of two models differ on the same asks, in percentage points: `after - before`.

    `model` is the column of `asked` that names them.

    Returns:
        One row a probe and measure: `probe`, `measure`, `difference`, `low`, `high`, `p` (two-sided, whole groups'
        signs flipped), `asks`, `groups`.

    Raises:
        ValueError: a column is missing, or the two were not asked the same.
    """
    require(asked, [model, *CLAIM_COLUMNS], "the table of claims")
    same = ["probe", "question_id", "category"]
    left, right = (asked[asked[model] == name].set_index(same) for name in (before, after))
    if left.empty or not left.index.equals(right.index):
        raise ValueError(f"{before} ({len(left)} asks) and {after} ({len(right)}) were not asked the same questions")
    rows = []
    for (probe, present), part in left.groupby(["probe", "present"], sort=False):
        said = [100.0 * one.loc[part.index, "claimed"].to_numpy(float) for one in (right, left)]
        groups = part["group"].tolist()
        found = paired_difference(*said, groups, seed=seed, draws=draws, level=level)
        rows.append([probe, "hit" if present else "false_alarm", *found, len(part), len(set(groups))])
    return pd.DataFrame(rows, columns=["probe", "measure", "difference", "low", "high", "p", "asks", "groups"])


def confidence_auc(
    asked: pd.DataFrame, confidence: Shaped[np.ndarray, " n"], *, seed: int, draws: int = DRAWS, level: float = LEVEL
) -> pd.DataFrame:
    """Whether a model is at least less sure of a box or a point for an object that is not there.

    `asked` holds the claims of one model, `confidence` the mean token log-probability of each row's answer
    (`confidence.confidences`). Only probes whose grammar cannot deny.

    Returns:
        One row a probe: `probe`, `auc` (ROC AUC of confidence for presence; 0.5 knows nothing), `low`, `high`, `asks`.
    """
    require(asked, CLAIM_COLUMNS, "the table of claims")
    rows = []
    for probe, part in asked.assign(confidence=confidence).groupby("probe", sort=False):
        if probe in CANNOT_DENY:
            found = auc_intervals(part, ["confidence"], positive="present", seed=seed, draws=draws, level=level).iloc[0]
            rows.append([probe, *found[["auc", "low", "high"]], len(part)])
    return pd.DataFrame(rows, columns=["probe", "auc", "low", "high", "asks"])


def example_probes(asked: pd.DataFrame, model: str, *, seed: int) -> pd.DataFrame:
    """The question ids that Figure 1's counterpart shows, with their probe and category: for each probe that can deny
    one ask about an absent object, drawn from `seed` among those that at least one model answers wrongly; among all
    where none does.

    `model` is the column of `asked` that names models; all were asked the same.
    """
    require(asked, [model, *CLAIM_COLUMNS], "the table of claims")
    absent = asked[~asked["present"] & ~asked["probe"].isin(CANNOT_DENY)]
    wrong = absent.groupby(["probe", "question_id", "category"], sort=False)["claimed"].any().reset_index(name="wrong")
    rng, rows = np.random.default_rng(seed), []
    for _, own in wrong.groupby("probe", sort=False):
        pool = own[own["wrong"]] if own["wrong"].any() else own
        rows.append(pool.iloc[int(rng.integers(len(pool)))])
    return pd.DataFrame(rows, columns=wrong.columns).drop(columns="wrong").reset_index(drop=True)
