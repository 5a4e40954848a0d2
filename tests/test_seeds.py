import numpy as np
import pandas as pd
import pytest
from scipy import stats

from irgpt_lib.evaluation import seeds
from irgpt_lib.evaluation.seeds import Deviations, Runs, comparisons, corrected, estimates, gathered, stage_effects
from irgpt_lib.evaluation.statistics import TASKS


def run(scores, *, variant="cl", seed=0, setting="fine_tuned", task="scene", group=None):
    """Score i answers question i of `task`, each its own group unless `group` says otherwise."""
    names = [f"{task}-{i}" for i in range(len(scores))]
    columns = {"variant": variant, "seed": seed, "setting": setting, "question_id": names, "task": task}
    columns |= {"group": names if group is None else group, "score": np.asarray(scores, dtype=float)}
    return pd.DataFrame(columns | {"chance": 25.0, "blind": 40.0, "output": "(A) field"})


def cell(table, **where):
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_one_seed_and_own_groups_give_the_t_test_of_the_paired_differences():
    rng = np.random.default_rng(0)
    a, b = rng.choice([0.0, 100.0], 40), rng.choice([0.0, 100.0], 40)
    runs = gathered(pd.concat([run(a), run(b, variant="none")]))
    found = cell(comparisons(runs, [("cl", "none")], settings=["fine_tuned"]), column="scene")
    expected = stats.ttest_rel(a, b)
    low, high = expected.confidence_interval()
    assert found[["difference", "low", "high", "p"]].tolist() == pytest.approx(
        [(a - b).mean(), low, high, expected.pvalue]
    )
    assert found.seeds == 1 and np.isnan(found.seed_sd)


def test_copies_of_a_question_in_its_group_add_nothing():
    rng = np.random.default_rng(1)
    parts = [rng.choice([0.0, 100.0], 20) for _ in range(3)]
    once = gathered(pd.concat([run(p, seed=s) for s, p in enumerate(parts)]))
    copied = gathered(
        pd.concat([run(np.repeat(p, 5), seed=s, group=np.repeat(np.arange(20), 5)) for s, p in enumerate(parts)])
    )
    effect = {("cl", "fine_tuned"): 1}
    one, five = (cell(estimates(runs, effect), column="scene") for runs in (once, copied))
    assert five[["difference", "low", "high"]].tolist() == pytest.approx(one[["difference", "low", "high"]].tolist())


def draws(rng, sd, *, seeds_=3, groups=60):
    """Deviations whose mean is truly 0; `sd` of the seeds, the questions and both, for the mean of one seed."""
    parts = sd[0] * rng.normal(size=(seeds_, 1)) / groups + sd[1] * rng.normal(size=groups) / groups**0.5
    return parts + sd[2] * rng.normal(size=(seeds_, groups)) / groups**0.5


@pytest.mark.parametrize("sd", [(0.0, 1.0, 0.3), (0.0, 0.0, 1.0), (1.0, 0.5, 0.8)])
def test_three_seeds_are_enough_for_an_interval_that_covers(sd):
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        parts = draws(rng, sd)
        mean = float(parts.sum(1).mean())
        found = seeds.estimate(Deviations(mean, parts - mean / parts.shape[1], 60, 1))
        covered += found["low"] <= 0 <= found["high"]
    assert covered >= 0.92 * 400


def test_seeds_that_differ_widen_the_interval_beyond_that_of_the_questions():
    same = [np.tile([0.0, 100.0], 50)] * 3
    shifted = [np.clip(scores + shift, 0, 110) for scores, shift in zip(same, (0, 10, 20), strict=True)]
    error = []
    for parts in (same, shifted):
        runs = gathered(pd.concat([run(p, seed=s) for s, p in enumerate(parts)]))
        error.append(cell(estimates(runs, {("cl", "fine_tuned"): 1}), column="scene"))
    assert error[0].error == pytest.approx(np.std(same[0], ddof=1) / 10) and error[0].seed_sd == 0
    assert error[1].error > 1.3 * error[0].error and error[1].dof < error[0].dof / 2


def test_sums_add_the_tasks_and_keep_what_a_shared_group_ties_together():
    scores = np.tile([0.0, 100.0], 20)
    names = [f"g{i}" for i in range(40)]
    shared = pd.concat([run(scores, task=t, group=names) for t in ("scene", "reid")])
    apart = pd.concat([run(scores, task="scene"), run(scores, task="reid")])
    tied, loose = (cell(estimates(gathered(p), {("cl", "fine_tuned"): 1}), column="psum") for p in (shared, apart))
    assert tied.difference == loose.difference == 100 and tied.tasks == 2
    assert tied.error == pytest.approx(2 * np.std(scores, ddof=1) / 40**0.5)
    assert loose.error == pytest.approx(2**0.5 * np.std(scores, ddof=1) / 40**0.5, rel=0.02)


def test_an_absent_task_has_no_number_and_one_group_has_no_interval():
    table = estimates(gathered(run([50.0, 100.0], group=["g", "g"])), {("cl", "fine_tuned"): 1})
    assert cell(table, column="scene").difference == 75 and np.isnan(cell(table, column="scene").low)
    assert np.isnan(cell(table, column="scene").p) and np.isnan(cell(table, column="location").difference)
    assert cell(table, column="location").questions == 0 and len(table) == len(TASKS) + 2


def test_an_effect_without_any_noise_is_certain_and_none_is_none():
    both = pd.concat([run([60.0] * 9), run([50.0] * 9, variant="none")])
    assert cell(comparisons(gathered(both), [("cl", "none")], settings=["fine_tuned"]), column="scene").p == 0
    assert cell(estimates(gathered(both), {("cl", "fine_tuned"): 0}), column="scene").p == 1


def test_baselines_belong_to_every_seed():
    runs = gathered(pd.concat([run([50.0, 60.0, 70.0], seed=s) for s in (0, 1)]))
    found = cell(estimates(runs, {("cl", "fine_tuned"): 1, ("blind", "baseline"): -1}), column="scene")
    assert found.difference == 20 and found.seeds == 2
    assert set(seeds.means(runs).variant) == {"cl", "chance", "blind"}


def test_pairs_that_were_not_run_are_left_out_and_an_effect_of_one_is_refused():
    runs = gathered(run([50.0, 60.0]))
    assert comparisons(runs, [("cl", "none")], settings=["fine_tuned"]).empty
    with pytest.raises(ValueError, match=r"no predictions of none \(fine_tuned\); there are .*cl \(fine_tuned\)"):
        estimates(runs, {("cl", "fine_tuned"): 1, ("none", "fine_tuned"): -1})


def test_runs_without_a_common_seed_or_with_other_questions_are_refused():
    effect = {("cl", "fine_tuned"): 1, ("none", "fine_tuned"): -1}
    with pytest.raises(ValueError, match="share no seed"):
        estimates(gathered(pd.concat([run([1.0, 2.0]), run([1.0, 2.0], variant="none", seed=1)])), effect)
    with pytest.raises(ValueError, match="differs in 1 questions, for example scene-2"):
        estimates(gathered(pd.concat([run([1.0, 2.0]), run([1.0, 2.0, 3.0], variant="none")])), effect)


def test_holm_counts_the_sums_and_the_tasks_of_a_table_apart():
    table = corrected(pd.DataFrame({"column": ["psum", "nsum", "scene", "reid", "security"], "p": [0.02] * 5}))
    assert table.p_holm.tolist() == pytest.approx([0.04, 0.04, 0.06, 0.06, 0.06])


def test_the_stages_are_told_apart():
    level = {("cl", "zero_shot"): 60, ("cl", "fine_tuned"): 90, ("none", "zero_shot"): 40, ("none", "fine_tuned"): 85}
    rng = np.random.default_rng(3)
    parts = [run(v + rng.normal(0, 1, 50), variant=a, setting=s) for (a, s), v in level.items()]
    table = stage_effects(gathered(pd.concat(parts)), "cl", "none")
    values = table[table.column == "scene"].set_index(["effect", "about"]).difference
    expected = {("stage 1", "cl - none"): 20, ("after stage 2", "cl - none"): 5, ("kept", "cl - none"): -15}
    expected |= {("stage 2", "cl"): 30, ("stage 2", "none"): 45}
    assert values.to_dict() == pytest.approx(expected, abs=1)
    assert (table[table.column == "psum"].p_holm < 0.001).all()


def test_components_come_back_from_a_large_draw():
    parts = draws(np.random.default_rng(4), (2.0, 1.0, 3.0), seeds_=200, groups=300)
    found = seeds.components(parts - parts.mean())
    assert np.sqrt([found.seed, found.group, found.both]) == pytest.approx([2.0, 1.0, 3.0], rel=0.15)


def test_runs_hold_each_question_once():
    assert isinstance(gathered(run([1.0, 2.0])), Runs)
    with pytest.raises(ValueError, match="a question occurs twice"):
        gathered(pd.concat([run([1.0]), run([1.0])]))
