import numpy as np
import pandas as pd
import pytest
from test_seeds import draws, run

from irgpt_lib.evaluation import power, seeds
from irgpt_lib.evaluation.power import Design, minimal_effect, power_table, seeds_needed, threshold, times_needed
from irgpt_lib.evaluation.seeds import Components, Deviations, gathered


@pytest.mark.parametrize("sd", [(0.0, 1.0, 0.5), (1.0, 0.5, 0.8)])
def test_the_minimal_effect_is_found_in_80_of_100_simulated_studies(sd):
    test = threshold(Components(*(value**2 for value in sd)), Design(3, 60))
    effect = minimal_effect(test)
    assert power.power(effect, test) == pytest.approx(0.8, abs=1e-6)
    rng, found = np.random.default_rng(0), 0
    for _ in range(600):
        parts = draws(rng, sd)
        mean = float(parts.sum(1).mean())
        found += seeds.estimate(Deviations(mean + effect, parts - mean / 60, 60, 1))["p"] < 0.05
    assert found / 600 == pytest.approx(0.8, abs=0.05)


def test_questions_alone_agree_with_the_normal_power_of_many_groups():
    test = threshold(Components(0.0, 4.0, 0.0), Design(5, 10_000))
    assert minimal_effect(test) == pytest.approx(2 * (1.95996 + 0.84162), rel=1e-3)
    assert power.power(0, test) == pytest.approx(0.05, abs=1e-3)


def test_more_seeds_and_more_questions_find_smaller_effects():
    measured = Components(1.0, 1.0, 1.0)
    found = [
        minimal_effect(threshold(measured, Design(s, 100, t))) for s, t in ((2, 1.0), (3, 1.0), (3, 4.0), (9, 4.0))
    ]
    assert found == sorted(found, reverse=True) and found[0] > 2 * found[-1]


def test_neither_seeds_nor_questions_make_up_for_the_other():
    assert seeds_needed(1.0, Components(0.0, 1.0, 0.0), 100) == np.inf
    assert times_needed(1.0, Components(1.0, 0.0, 0.0), Design(3, 100)) == np.inf
    assert seeds_needed(3.0, Components(1.0, 0.1, 0.1), 100) == 3
    assert times_needed(2.0, Components(0.0, 1.0, 0.0), Design(3, 100)) == pytest.approx(2.0, rel=0.05)
    assert times_needed(50.0, Components(1.0, 1.0, 1.0), Design(3, 100)) == 1


def test_one_seed_tells_what_the_questions_allow_and_nothing_of_more_seeds():
    measured = seeds.components(draws(np.random.default_rng(1), (5.0, 1.0, 0.0), seeds_=1, groups=400))
    assert minimal_effect(threshold(measured, Design(1, 400))) == pytest.approx(2.8, rel=0.15)
    assert np.isnan(seeds_needed(3.0, measured, 400))


def test_without_noise_any_effect_is_found():
    test = threshold(Components(0.0, 0.0, 0.0), Design(3, 10))
    assert minimal_effect(test) == 0 and power.power(1, test) == 1 and power.power(0, test) == 0


def test_the_table_pools_the_contrasts_of_a_column_and_keeps_points_to_accuracies():
    rng = np.random.default_rng(2)
    parts = [
        run(rng.choice([0.0, 100.0], 60), variant=v, seed=s, task=t)
        for v in ("none", "random", "cl")
        for s in (0, 1, 2)
        for t in ("scene", "location")
    ]
    runs = gathered(pd.concat(parts))
    pairs = [("none", "cl"), ("random", "cl"), ("never", "cl")]
    table = power_table(runs, pairs, settings=["zero_shot", "fine_tuned"]).set_index("column")
    assert set(table.index) == {"scene", "psum", "location", "nsum"} and (table.contrasts == 2).all()
    assert table.loc["scene", "found"] > 10 and table.loc["scene", "power"] < 0.2
    assert table.loc["scene", "questions_needed"] > 1000
    assert table.loc[["location", "nsum"], ["power", "seeds_needed", "questions_needed"]].isna().all(axis=None)
