import numpy as np
import pandas as pd
import pytest
from test_paper_tables import LEVELS, predictions

from irgpt_lib.report import claims
from irgpt_lib.report.claims import checks, paper_effect


def of(table, text):
    found = table[table.claim == text]
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture(scope="module")
def table():
    return checks(predictions())


def test_the_papers_own_numbers_follow_from_its_tables():
    by_text = {claim.text: claim for claim in claims.CLAIMS if isinstance(claim, claims.Claim)}
    assert paper_effect(by_text["Lesson 2 reversed is worse"]) == 15.50
    assert paper_effect(by_text["Lesson 1 reversed is worse"]) == 10.51
    assert paper_effect(by_text["reversing Lesson 2 costs more than reversing Lesson 1"]) == 4.99
    assert paper_effect(by_text["tuned, it surpasses a larger model"]) == 12.01
    off = {c.text for c in by_text.values() if np.isfinite(c.quoted) and c.quoted != paper_effect(c)}
    assert off == {"the curriculum beats random order", "the curriculum errs less than random order"}


def test_every_claim_has_the_papers_own_sign():
    one_sided = [c for c in claims.CLAIMS if isinstance(c, claims.Claim) and c.measure == "score"]
    assert all(np.sign(paper_effect(claim)) == claim.direction for claim in one_sided)


def test_claims_are_supported_refuted_or_not_run(table):
    assert of(table, "tuned, the curriculum beats random order").verdict == "supported"
    assert of(table, "the curriculum lifts Re-ID").difference == pytest.approx(30, abs=1)
    # in errors the same levels make the curriculum the worst
    wrong = of(table, "the curriculum lowers the sum of errors")
    assert (wrong.verdict, wrong.reason) == ("not supported", "the opposite is found")
    absent = of(table, "both lessons beat Lesson 1 alone")
    assert (absent.verdict, absent.reason) == ("not run", "needs `l1`") and np.isnan(absent.difference)


def test_holm_is_over_the_claims_that_were_tested(table):
    tested = table[table.p.notna()]
    assert len(tested) < len(table)
    smallest = tested.sort_values("p").iloc[0]
    assert smallest.p_holm == pytest.approx(len(tested) * smallest.p)


def test_no_difference_is_undecided_unless_a_gain_is_ruled_out():
    close = of(checks(predictions(dict.fromkeys(LEVELS, 50.0))), "the curriculum lifts Re-ID")
    assert (close.verdict, close.reason) == ("not supported", "a gain of 3 points is ruled out")
    noisy = predictions(dict.fromkeys(LEVELS, 50.0))
    noisy["score"] = np.random.default_rng(0).choice([0.0, 100.0], len(noisy))
    wide = of(checks(noisy), "the curriculum lifts Re-ID")
    assert (wide.verdict, wide.reason) == ("undecided", "no difference found")


def test_best_counts_columns_and_is_not_claimed_while_models_are_missing(table):
    best = of(table, "the curriculum is best on seven tasks")
    # six accuracies are won from `none`, two of the seven are errors and lost
    assert best[["difference", "low", "high"]].tolist() == [5, 5, 5] and best.verdict == "not supported"
    models = dict.fromkeys(("none", "llava", "pandagpt", "qwen2_vl", "internvl_large"), 40.0)
    tuned = predictions(models | {"cl": 70.0}, settings=["fine_tuned"])
    tuned["score"] = (
        np.where(tuned.task.isin(["location", "aerial_counting", "pedestrian_counting"]), -1, 1) * tuned.score
    )
    assert of(checks(tuned), "tuned, the curriculum surpasses all models").verdict == "supported"
    some = of(checks(tuned[tuned.variant != "llava"]), "tuned, the curriculum surpasses all models")
    assert some.verdict == "undecided" and some.reason == "surely best in 2 of 2; some models not run"


def test_collapse_is_the_share_of_the_commonest_answer():
    answers = predictions()
    answers["output"] = np.where(answers.variant == "anti_cl", "2", answers.question_id)
    found = of(checks(answers), "hard to easy collapses on Re-ID")
    assert found.difference == pytest.approx(100 - 100 / 15) and found.verdict == "supported"


def test_the_grid_says_it_all(table):
    grid = claims.claims_grid(table, simulated=True)
    counts = claims.counted(table)
    assert sum(counts.values()) == len(claims.CLAIMS) == len(grid.blocks[0].rows)
    assert f"{counts['not_run']} not run" in grid.note
    beats = next(cells for cells in grid.blocks[0].rows if cells[0].text == "the curriculum beats random order")
    assert beats[4].text == "+21.47 (text: +14.47)"


def test_one_seed_is_judged_too():
    table = checks(predictions(seeds=(0,)))
    assert (table.seeds[table.difference.notna()] == 1).all()
    assert isinstance(table, pd.DataFrame) and (table.verdict == "supported").any()
