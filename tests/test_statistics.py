import numpy as np
import pandas as pd
import pytest

from irgpt_lib.evaluation import statistics
from irgpt_lib.evaluation.statistics import (
    bootstrap_interval,
    contrasts,
    holm,
    mode_share,
    paired_difference,
    summarise,
    task_means,
)


def predictions(scores, *, variant="cl", seed=0, setting="fine_tuned", task="scene", group=None):
    """One run: score i answers question i of `task`, each its own group unless `group` says otherwise."""
    names = [f"{task}-{i}" for i in range(len(scores))]
    return pd.DataFrame(
        {
            "variant": variant,
            "seed": seed,
            "setting": setting,
            "question_id": names,
            "task": task,
            "group": names if group is None else group,
            "truth": "(A) field",
            "output": "(A) field",
            "parsed": True,
            "score": np.asarray(scores, dtype=float),
            "chance": 25.0,
            "blind": 40.0,
        }
    )


def cell(table, **where):
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_the_interval_holds_the_mean_and_equals_the_normal_one_for_many_groups():
    scores = np.tile([0.0, 100.0], 500)
    mean, low, high = bootstrap_interval(scores, [str(i) for i in range(1000)], seed=0)
    assert mean == 50
    # standard error 50 / sqrt(1000) = 1.58, so the limits lie 1.96 * 1.58 = 3.1 away
    assert low == pytest.approx(46.9, abs=0.4) and high == pytest.approx(53.1, abs=0.4)


def test_ten_copies_of_each_question_in_one_group_leave_the_interval_as_it_was():
    scores = np.array([0.0, 100, 100, 0, 100])
    once = bootstrap_interval(scores, list("abcde"), seed=3)
    copied = bootstrap_interval(np.repeat(scores, 10), sorted("abcde" * 10), seed=3)
    assert copied == once
    singly = bootstrap_interval(np.repeat(scores, 10), [str(i) for i in range(50)], seed=3)
    assert singly.high - singly.low < 0.5 * (once.high - once.low)


def test_drawing_in_small_parts_covers_every_draw(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWN_AT_ONCE", 25)
    counts = statistics.resample_counts(10, 7, np.random.default_rng(0))
    assert counts.shape == (7, 10) and (counts.sum(1) == 10).all()


def test_one_group_has_a_mean_but_no_interval_and_nothing_has_neither():
    assert bootstrap_interval(np.array([0.0, 100.0]), ["a", "a"], seed=0)[0] == 50
    assert np.isnan(bootstrap_interval(np.array([0.0, 100.0]), ["a", "a"], seed=0)[1:]).all()
    assert np.isnan(bootstrap_interval(np.array([]), [], seed=0)).all()


def test_a_score_that_is_not_finite_is_refused_with_its_place():
    with pytest.raises(ValueError, match=r"index \[1\]"):
        bootstrap_interval(np.array([1.0, np.nan]), ["a", "b"], seed=0)


def test_95_percent_intervals_cover_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5).astype(str)
    covered = 0
    for trial in range(200):
        scores = np.repeat(rng.normal(size=40), 5) + 0.1 * rng.normal(size=200)
        _, low, high = bootstrap_interval(scores, groups, seed=trial, draws=400)
        covered += low <= 0 <= high
    assert 180 <= covered <= 198


def test_a_model_against_itself_differs_by_0_with_p_1():
    scores = np.array([0.0, 100, 100])
    assert paired_difference(scores, scores, list("abc"), seed=0) == (0, 0, 0, 1)


def test_three_groups_that_all_gain_reach_p_one_quarter_and_no_less():
    # 2 of the 8 sign patterns are as extreme as the observed one
    _, _, _, p = paired_difference(np.full(3, 100.0), np.zeros(3), list("abc"), seed=0, draws=20_000)
    assert p == pytest.approx(0.25, abs=0.01)


def test_p_is_rarely_small_where_there_is_no_difference():
    rng = np.random.default_rng(1)
    groups = [str(i) for i in range(30)]
    p = [paired_difference(*rng.normal(size=(2, 30)), groups, seed=i, draws=200).p for i in range(300)]
    assert np.mean(np.array(p) < 0.05) < 0.09
    assert 0.4 < np.mean(p) < 0.6


def test_a_difference_on_other_questions_is_refused():
    with pytest.raises(ValueError, match="2 scores against 3"):
        paired_difference(np.zeros(2), np.zeros(3), list("abc"), seed=0)


def test_holm_by_hand():
    # sorted 0.01 * 3, 0.02 * 2, 0.04 * 1; the NaN was not tested
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, np.nan, 0.02])), [0.04, 0.03, np.nan, 0.04])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1.0, 1.0])


def test_answer_collapse_is_a_share_and_an_entropy():
    assert mode_share(["2", "2", "2"], options=7) == ("2", 1.0, 0.0)
    assert mode_share(["b", "a"]) == ("a", 0.5, pytest.approx(1.0))
    assert mode_share(["a", "a", "b", "b"], options=4).entropy == pytest.approx(0.5)
    with pytest.raises(ValueError, match="2 different answers"):
        mode_share(["a", "b"], options=1)


def test_collapse_is_told_beside_the_share_of_the_commonest_truth():
    table = predictions([0, 0, 100, 0], task="reid").assign(output="3", truth=["2", "4", "3", "5"])
    row = statistics.collapse(table).iloc[0]
    assert (row["mode"], row.share, row.entropy, row.truth_share) == ("3", 1.0, 0.0, 0.25)


def test_a_task_without_questions_counts_0_and_is_nan_and_psum_says_how_many_tasks_it_has():
    table = task_means(predictions([100, 0]))
    assert len(table) == 9
    assert cell(table, task="scene").score == 50 and cell(table, task="scene").questions == 2
    assert cell(table, task="reid").questions == 0 and np.isnan(cell(table, task="reid").score)
    sums = statistics.sums(predictions([100, 0]), seed=0)
    assert sums["psum"][0].mean == 50 and sums["psum"][1] == 1
    assert np.isnan(sums["nsum"][0].mean) and sums["nsum"][1] == 0


def test_task_means_can_be_told_apart_by_band():
    table = task_means(predictions([100, 0]).assign(band=["nir", "tir"]), by=["band"])
    assert cell(table, band="nir", task="scene").score == 100 and cell(table, band="tir", task="scene").score == 0


def test_an_unknown_task_is_refused_with_the_nine():
    with pytest.raises(ValueError, match="captioning.*scene, recognition"):
        task_means(predictions([1], task="captioning"))


def test_tasks_that_share_groups_move_together_in_the_sum():
    scores = [0, 100] * 20
    apart = pd.concat([predictions(scores), predictions(scores, task="security")])
    shared = [f"image-{i}" for i in range(40)]
    together = pd.concat([predictions(scores, group=shared), predictions(scores, task="security", group=shared)])
    width = {
        name: np.diff(statistics.sums(table, seed=0)["psum"][0][1:])[0]
        for name, table in (("apart", apart), ("together", together))
    }
    # perfectly correlated: the standard errors add; independent: their squares do
    assert width["together"] / width["apart"] == pytest.approx(2**0.5, rel=0.12)


def test_summary_has_every_run_and_both_baselines_and_averages_seeds():
    runs = pd.concat([predictions([100, 100]), predictions([0, 100], seed=1)])
    table = summarise(runs, seed=0, draws=200)
    ours = cell(table, variant="cl", setting="fine_tuned", column="scene")
    assert (ours["mean"], ours.seeds, ours.questions) == (75, 2, 2)
    assert ours.seed_sd == pytest.approx(50 / 2**0.5)
    assert cell(table, variant="blind", column="psum")["mean"] == 40
    assert cell(table, variant="chance", column="scene")["mean"] == 25
    assert set(table.column) == set(statistics.COLUMNS)


def test_seeds_that_disagree_widen_the_interval():
    steady = pd.concat([predictions([50] * 20), predictions([50] * 20, seed=1)])
    unsteady = pd.concat([predictions([0] * 20), predictions([100] * 20, seed=1)])
    limits = [cell(summarise(t, seed=0, draws=200), variant="cl", column="scene") for t in (steady, unsteady)]
    assert (limits[0].low, limits[0].high) == (50, 50)
    assert (limits[1].low, limits[1].high) == (0, 100)


def test_contrasts_are_paired_so_that_a_gain_on_every_question_is_certain():
    hard = np.linspace(0, 80, 30)
    runs = pd.concat([predictions(hard + 5), predictions(hard, variant="random")])
    row = cell(contrasts(runs, [("cl", "random")], settings=["fine_tuned"], seed=0), column="scene")
    assert row.difference == pytest.approx(5) and row.low == pytest.approx(5) and row.high == pytest.approx(5)
    assert row.p == pytest.approx(2 / 2001) and row.p_holm == pytest.approx(2 / 2001)


def test_seeds_that_disagree_on_the_sign_find_no_difference():
    base = pd.concat([predictions([50] * 30, variant="random", seed=s) for s in (0, 1)])
    ours = pd.concat([predictions([45] * 30, seed=0), predictions([60] * 30, seed=1)])
    row = cell(contrasts(pd.concat([base, ours]), [("cl", "random")], settings=["fine_tuned"], seed=0), column="psum")
    assert row.difference == pytest.approx(2.5) and row.low < 0 < row.high and row.p > 0.05


def test_contrasts_say_what_was_not_run_and_what_differs():
    runs = pd.concat([predictions([1, 2]), predictions([1, 2, 3], variant="random")])
    with pytest.raises(ValueError, match=r"no predictions of none \(fine_tuned\); there are cl \(fine_tuned\)"):
        contrasts(runs, [("cl", "none")], settings=["fine_tuned"], seed=0)
    with pytest.raises(ValueError, match="differ in 1 questions, for example scene-2"):
        contrasts(runs, [("cl", "random")], settings=["fine_tuned"], seed=0)
    apart = pd.concat([predictions([1, 2]), predictions([1, 2], variant="random", seed=7)])
    with pytest.raises(ValueError, match=r"share no seed \(\[0\] and \[7\]\)"):
        contrasts(apart, [("cl", "random")], settings=["fine_tuned"], seed=0)


def test_a_seed_that_lacks_a_question_is_named():
    runs = pd.concat([predictions([1, 2]), predictions([1], seed=1)])
    with pytest.raises(ValueError, match="seed 1: question scene-1 has no score"):
        summarise(runs, seed=0)


def test_runs_that_disagree_on_the_blind_score_are_refused():
    runs = pd.concat([predictions([1]), predictions([1], variant="random").assign(blind=0.0)])
    with pytest.raises(ValueError, match="question scene-0: the runs disagree"):
        summarise(runs, seed=0)
