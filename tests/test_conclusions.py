import re

import numpy as np
import pandas as pd
import pytest
from test_paper_tables import predictions

from irgpt_lib.evaluation.power import power_table
from irgpt_lib.evaluation.seeds import comparisons, corrected, gathered, means, stage_effects
from irgpt_lib.report import claims, conclusions, metrics
from irgpt_lib.report.grids import as_markdown
from irgpt_lib.report.paper_tables import TABLES, all_compared, tables_for

LINE = {
    "a": "cl",
    "b": "random",
    "setting": "fine_tuned",
    "column": "psum",
    "difference": 6.0,
    "low": 2.0,
    "high": 10.0,
}
LINE |= {"p_holm": 0.01, "seeds": 3, "questions": 1000}


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({}, ["`cl` is better than `random` (+6.00, interval +2.00 to +10.00", "other seeds of this recipe"]),
        ({"column": "nsum"}, ["nsum, fine-tuned: `cl` is worse than `random`"]),
        ({"seeds": 1}, ["holds for these two trained models", "1 seed)"]),
        ({"p_holm": 0.2}, ["no difference found between `cl` and `random`", "not evidence of none", "below 7.50"]),
        ({"p_holm": np.nan, "low": np.nan}, ["cannot be tested, for too few groups"]),
    ],
)
def test_a_comparison_in_words(changed, parts):
    text = conclusions.difference_sentence(LINE | changed, 7.5)
    assert all(part in text for part in parts)


@pytest.fixture(scope="module")
def runs():
    return gathered(predictions({"cl": 70.0, "none": 60.0}))


@pytest.fixture(scope="module")
def compared():
    levels = {"cl": 70.0, "none": 60.0, "random": 70.0, "ascending": 70.0, "two_tiers": 65.0}
    levels |= {"anti_cl": 60.0, "llava": 1.0}
    found = gathered(predictions(levels))
    return all_compared(tables_for(levels), found, apart=("llava",))


def test_the_main_variants_are_told_one_by_one_with_what_might_have_been_missed(compared):
    power = pd.DataFrame([{"setting": "fine_tuned", "column": "psum", "found": 7.5}])
    lines = conclusions.main_sentences(compared, power)
    # three variants against the curriculum, two settings, two sums
    assert len(lines) == 12 and sum("is worse than `cl`" in line for line in lines) == 4
    (random,) = [line for line in lines if line.startswith("psum, fine-tuned: no difference found between `random`")]
    assert "below 7.50 would mostly have been missed" in random
    assert len(conclusions.main_sentences(compared, pd.DataFrame())) == 12


def test_single_tasks_are_told_where_they_differ(compared):
    zero, tuned = conclusions.task_sentences(compared)
    # `none` and `anti_cl` have lower accuracies and lower errors than the curriculum, `random` its own level
    assert zero.startswith("single tasks, zero-shot: 18 of 27 found to differ: `none` is worse than `cl` in Scene (-")
    assert "`anti_cl` is better than `cl` in P.C. (-" in tuned and "`random`" not in tuned


def test_the_rows_of_a_table_are_told_together(compared):
    lines = conclusions.table_sentences(compared)
    (table4,) = [line for line in lines if line.startswith(f"{TABLES[3].title}: psum, fine-tuned: ")]
    assert re.search(r": 1 of 3 found to differ: `anti_cl` is worse than `cl` \(-(59|60)\.", table4)
    assert table4.endswith("No difference found: `ascending` - `cl`, `random` - `cl`.")
    assert not any("llava" in line for line in lines)
    few = compared[compared.table == "table4"].assign(p_holm=np.nan)
    (untested, *_) = conclusions.table_sentences(few)
    assert untested.endswith("0 of 3 found to differ. Not tested, for too few groups of questions: 3.")


def test_a_variant_of_no_table_is_compared_in_one_of_its_own(compared):
    text = as_markdown(conclusions.comparison_grid(compared, simulated=True))
    block = text.partition("**Further variants of this study**")[2]
    cells = [cell.strip() for cell in block.split("`two_tiers` - `cl`")[1].splitlines()[0].strip("|").split("|")]
    assert len(cells) == 5 and all(re.fullmatch(r"\*\*-[123]\d\.\d\d \[.*p < 0\.001\*\*", cell) for cell in cells[1:])
    # Table 3 is of the tuned models only
    lessons = text.partition(f"**{TABLES[1].title}**")[2].split("`none` - `cl`")[1].splitlines()[0]
    assert [cell.strip() for cell in lessons.split("|")][1:3] == ["–", "–"]


def test_nothing_to_compare_is_said_and_no_error():
    alone = gathered(predictions({"cl": 50.0}))
    none = all_compared(TABLES, alone, apart=())
    power = power_table(alone, [("random", "cl")], settings=["fine_tuned"])
    assert conclusions.main_sentences(none, power) == conclusions.task_sentences(none) == []
    assert conclusions.table_sentences(none) == []
    assert conclusions.power_sentences(power) == conclusions.stage_sentences(pd.DataFrame()) == []
    for grid in (conclusions.power_grid(power), conclusions.comparison_grid(none, simulated=True)):
        assert as_markdown(grid).startswith(f"### {grid.title}") and "|" not in as_markdown(grid)
    assert metrics.headline(means(alone), none, power, {})["detectable"] == {}


def test_the_stages_in_words(runs):
    lines = conclusions.stage_sentences(stage_effects(runs, "cl", "none"))
    assert len(lines) == 10
    assert lines[0].startswith("psum: Before instruction tuning cl - none is +5") and "improvement" in lines[0]
    assert lines[2].endswith("no effect found.")
    assert lines[5].startswith("nsum: Before") and lines[5].endswith("a worsening.")


def test_power_in_words_and_as_a_table(runs):
    power = power_table(runs, [("none", "cl")], settings=["fine_tuned"])
    text = conclusions.power_sentences(power)
    assert len(text) == 3 and text[0].startswith("psum, fine-tuned: 90 questions and 3 seeds find a difference of ")
    needed = {
        "questions": 90,
        "seeds": 3,
        "found": 5.0,
        "power": 0.3,
        "seeds_needed": np.inf,
        "questions_needed": 200.0,
    }
    assert conclusions.power_sentence(needed, 3).endswith(
        "these questions need no number of seeds, and these seeds need 200 questions."
    )
    assert "is not known" in conclusions.power_sentence(needed | {"seeds": 1}, 3)
    rows = conclusions.power_grid(pd.DataFrame([needed | {"setting": "fine_tuned", "column": "psum"}
        | dict.fromkeys(("seed_sd", "group_sd", "both_sd"), 1.0)])).blocks[0].rows  # fmt: skip
    assert [cell.text for cell in rows[0]][-2:] == ["∞", "200"]


def test_the_metrics_hold_the_sums_the_comparisons_and_the_claims(runs):
    compared = corrected(comparisons(runs, [("none", "cl")], settings=["zero_shot", "fine_tuned"]))
    power = power_table(runs, [("cl", "none")], settings=["fine_tuned"])
    counts = claims.counted(claims.checks(predictions({"cl": 70.0, "none": 60.0}), apart=()))
    found = metrics.headline(means(runs), compared, power, counts)
    assert found["score"]["fine_tuned"]["psum"] == pytest.approx(420, abs=3)
    assert found["gain"] == {"none": {s: pytest.approx({"psum": -60, "nsum": -30}, abs=4) for s in found["score"]}}
    assert set(found["detectable"]) == {"fine_tuned"} and sum(found["claims"].values()) == len(claims.CLAIMS)


def test_what_was_not_run_has_no_metric():
    empty = comparisons(gathered(predictions({"none": 50.0})), [("cl", "none")], settings=["fine_tuned"])
    found = metrics.headline(means(gathered(predictions({"none": 50.0}))), empty, pd.DataFrame({"column": []}), {})
    assert found == {"score": {}, "gain": {}, "detectable": {}, "claims": {}}


def test_plots_name_each_run_and_comparison_once(runs):
    scores = metrics.scores_plot(means(runs), ["psum"])
    assert scores.run.tolist()[:2] == ["cl fine-tuned", "cl zero-shot"] and not scores.run.duplicated().any()
    compared = comparisons(runs, [("cl", "none")], settings=["zero_shot"])
    twice = pd.concat([compared, compared])
    assert metrics.differences_plot(twice, ["psum"]).comparison.tolist() == ["cl - none zero-shot"]
