import numpy as np
import pandas as pd
import pytest
from test_paper_tables import LEVELS, predictions

from irgpt_lib.evaluation.seeds import gathered
from irgpt_lib.report import claims
from irgpt_lib.report.claims import checks, paper_effect


def of(table, text):
    found = table[table.claim == text]
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture(scope="module")
def table():
    return checks(predictions(), apart=())


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
    close = of(checks(predictions(dict.fromkeys(LEVELS, 50.0)), apart=()), "the curriculum lifts Re-ID")
    assert (close.verdict, close.reason) == ("not supported", "a gain of 3 points is ruled out")
    noisy = predictions(dict.fromkeys(LEVELS, 50.0))
    noisy["score"] = np.random.default_rng(0).choice([0.0, 100.0], len(noisy))
    wide = of(checks(noisy, apart=()), "the curriculum lifts Re-ID")
    assert (wide.verdict, wide.reason) == ("undecided", "no difference found")


RIVALS = ("none", "llava", "pandagpt", "qwen2_vl", "internvl_large")
SURPASSES = "tuned, the curriculum surpasses all models"


@pytest.fixture(scope="module")
def won():
    """Answers of all models after tuning, of which `cl` has the best."""
    tuned = predictions(dict.fromkeys(RIVALS, 40.0) | {"cl": 70.0}, settings=["fine_tuned"])
    errors = tuned.task.isin(["location", "aerial_counting", "pedestrian_counting"])
    return tuned.assign(score=np.where(errors, -1, 1) * tuned.score)


def test_best_counts_columns_and_one_better_model_refutes_it(table):
    best = of(table, "the curriculum is best on seven tasks")
    # six accuracies are won from `none`, two of the seven are errors and lost
    assert best[["difference", "low", "high"]].tolist() == [5, 5, 5] and best.verdict == "not supported"
    assert best.reason == "another model is better in 2 of 7"


@pytest.mark.parametrize(("p", "still_possible"), [(0.03, 2), (0.02, 1)])
def test_a_column_is_lost_only_by_holm_over_the_columns(won, monkeypatch, p, still_possible):
    two = {"column": ["psum", "nsum"], "difference": [-5.0, -1.0], "p": [p, 0.5], "seeds": 3, "questions": 90}
    monkeypatch.setattr(claims, "estimates", lambda runs, effect, level: pd.DataFrame(two))
    claim = claims.BestClaim("", "", "cl", ("none",), "fine_tuned", ("psum", "nsum"))
    assert claims.checked_best(claim, gathered(won), (), 0.95)["high"] == still_possible


def test_best_is_supported_only_where_every_model_was_run(won):
    assert of(checks(won, apart=()), SURPASSES).verdict == "supported"
    some = of(checks(won[won.variant != "llava"], apart=()), SURPASSES)
    assert some.verdict == "not run" and np.isnan(some.p)
    rivals = "`pandagpt`, `qwen2_vl`, `none`, `internvl_large`"
    assert some.reason == f"needs `llava`; surely best in 2 of 2 against {rivals}"


def test_runs_that_share_no_seed_are_not_compared():
    some = pd.concat([predictions({"cl": 70.0}, seeds=(0,)), predictions({"random": 60.0, "none": 50.0}, seeds=(1,))])
    table = checks(some, apart=())
    assert of(table, "tuned, the curriculum beats random order").reason == "needs a seed that all were run with"
    assert of(table, SURPASSES).reason.startswith("needs `internvl_large`, `llava`, `none`")
    without = checks(some[some.variant != "cl"], apart=())
    assert of(without, SURPASSES).reason == "needs `cl`" and set(without.verdict) == {"not run"}


def test_nothing_is_claimed_of_models_that_start_from_random_weights(won):
    table = checks(won, apart=("llava", "internvl_large"))
    larger = of(table, "tuned, it surpasses a larger model")
    assert (larger.verdict, larger.reason) == ("not tested", "starts from random weights: `internvl_large`")
    assert np.isnan(larger.difference) and np.isnan(larger.p_holm)
    best = of(table, SURPASSES)
    assert best.verdict == "not tested" and best.low == 2 and np.isnan(best.p)
    assert best.reason.startswith("2 of 5 rivals start from random weights; surely best in 2 of 2 against `pandagpt`")
    assert claims.counted(table)["not_tested"] == 3


def test_a_trained_rival_refutes_whatever_the_untrained_are(table):
    untrained = checks(predictions(LEVELS | {"llava": 1.0}), apart=("llava",))
    best = of(untrained, "the curriculum is best on seven tasks")
    assert (best.verdict, best.difference) == ("not supported", 5)


def test_collapse_is_the_share_of_the_commonest_answer():
    answers = predictions()
    answers["output"] = np.where(answers.variant == "anti_cl", "2", answers.question_id)
    found = of(checks(answers, apart=()), "hard to easy collapses on Re-ID")
    assert found.difference == pytest.approx(100 - 100 / 15) and found.verdict == "supported"


def test_the_grids_say_it_in_short_and_in_full(table):
    counts = claims.counted(table)
    short, full = claims.claims_grid(table, simulated=True), claims.full_claims_grid(table, simulated=True)
    for grid in (short, full):
        assert sum(counts.values()) == len(claims.CLAIMS) == len(grid.blocks[0].rows)
        assert f"{counts['not_run']} not run" in grid.note
    texts = [[cell.text for cell in cells] for cells in short.blocks[0].rows]
    claimed = next(cells for cells in texts if cells[0].startswith("the curriculum beats random order ("))
    assert claimed[0].endswith("(psum, zero-shot)") and claimed[1] == "+21.47 (text: +14.47)"
    assert claimed[-1] == "supported"
    reasons = [cells[-1].text for cells in full.blocks[0].rows]
    assert reasons == table.reason.tolist()


def test_one_seed_is_judged_too():
    table = checks(predictions(seeds=(0,)), apart=())
    assert (table.seeds[table.difference.notna()] == 1).all()
    assert isinstance(table, pd.DataFrame) and (table.verdict == "supported").any()
