import numpy as np
import pandas as pd
import pytest

from irgpt_lib.evaluation.statistics import COLUMNS, TASKS, contrasts, summarise
from irgpt_lib.report import paper, tables

LEVELS = {"none": 40.0, "anti_cl": 50.0, "random": 60.0, "cl": 70.0}


def runs(tasks=TASKS, variants=LEVELS, seeds=(0, 1), settings=("zero_shot", "fine_tuned")):
    """Every question of a variant scores the variant's level, so that every mean is known beforehand."""
    rows = [
        {
            "variant": variant,
            "seed": seed,
            "setting": setting,
            "question_id": f"{task}-{i}",
            "task": task,
            "group": f"{task}-{i}",
            "score": variants[variant],
            "chance": 25.0,
            "blind": 30.0,
        }
        for variant in variants
        for seed in seeds
        for setting in settings
        for task in tasks
        for i in range(12)
    ]
    return pd.DataFrame(rows)


def row_of(text, name):
    lines = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in lines[0].strip("|").split("|")]


@pytest.fixture(scope="module")
def table():
    shuffled = runs(variants={"cl": 31.0}, settings=["shuffled"])
    return tables.table2(summarise(pd.concat([runs(), shuffled]), seed=0, draws=50), paper.table2(), simulated=True)


def test_the_best_of_our_variants_is_bold_and_the_second_underlined_each_way_round(table):
    best, second = row_of(table, "`cl`"), row_of(table, "`random`")
    assert best[1] == "**70.00 ± 0.00**" and second[1] == "<u>60.00 ± 0.00</u>"
    # errors: the lowest wins, and `none` has it
    location = 1 + COLUMNS.index("location")
    assert row_of(table, "`none`")[location] == "**40.00 ± 0.00**" and best[location] == "70.00 ± 0.00"


def test_sums_stand_in_their_columns(table):
    ours = row_of(table, "`none`")
    assert ours[1 + COLUMNS.index("psum")] == "240.00 ± 0.00"
    assert ours[1 + COLUMNS.index("nsum")] == "**120.00 ± 0.00**"


def test_chance_blind_and_shuffled_rows_stand_by_and_win_nothing(table):
    assert row_of(table, "chance: a random answer")[1] == "25.00 ± 0.00"
    assert row_of(table, "blind: prior without the image")[COLUMNS.index("nsum") + 1] == "90.00 ± 0.00"
    assert row_of(table, "`cl`, images shuffled")[1] == "31.00 ± 0.00"


def test_the_papers_rows_are_the_papers(table):
    assert row_of(table, "*paper: IRGPT (CL)*")[1:] == [
        "65.12", "86.28", "36.68", "58.33", "33.55", "48.69", "328.65", "33.32", "13.25", "47.30", "93.87"
    ]  # fmt: skip
    assert "Qwen2-VL" not in table


def test_the_table_says_that_the_data_is_simulated_what_the_model_is_and_how_much_was_asked(table):
    assert table.startswith("### Table 2: nine tasks on simulated data")
    assert "**The data is simulated** (`source: simulated`, `authentic: false`)" in table
    assert "not InternVL2-8B" in table
    assert "Scene 12, Rec. 12" in table and "Seeds per variant: 2" in table


def test_authentic_data_is_not_called_simulated():
    summary = summarise(runs(["scene"], seeds=[0]), seed=0, draws=50)
    text = tables.table2(summary, paper.table2(), simulated=False, model="InternVL2-8B")
    assert "simulated" not in text and "The model is InternVL2-8B." in text
    assert "With one seed the interval does not hold the noise of training" in text


def test_a_task_without_questions_is_a_dash_and_the_caption_says_so():
    text = tables.table2(summarise(runs(["scene"]), seed=0, draws=50), paper.table2(), simulated=True)
    assert row_of(text, "`cl`")[2] == "–"
    assert "psum over 1 of 6 tasks, nsum over 0 of 3" in text
    assert "No question was asked in Rec., Gro., Rel., ReID, Sec., Loc., A.C., P.C." in text


def test_ties_share_their_mark_and_differences_below_the_print_do_not_count():
    texts = tables.marked([70.0, 70.001, 50.0], ["a", "b", "c"], lower_is_better=False)
    assert texts == ["**a**", "**b**", "<u>c</u>"]


def test_no_variant_of_table_2_is_an_error_that_lists_what_ran():
    summary = summarise(runs(["scene"], variants={"other": 1.0}), seed=0, draws=50)
    with pytest.raises(ValueError, match="there are .*other"):
        tables.table2(summary, paper.table2(), simulated=True)


def test_a_frame_of_another_kind_is_refused_with_the_columns_it_has():
    with pytest.raises(ValueError, match=r"summary of runs lacks the columns \['setting'.*it has \['variant'\]"):
        tables.table2(pd.DataFrame({"variant": ["cl"]}), paper.table2(), simulated=True)


@pytest.fixture(scope="module")
def compared():
    return contrasts(runs(), [("random", "cl"), ("anti_cl", "cl")], settings=["fine_tuned"], seed=0, draws=1000)


def test_the_ablation_says_in_words_what_the_differences_show(compared):
    text = tables.ablation_table(compared)
    assert "**-10.00 [-10.00, -10.00], p 0.018**" in text
    assert "psum: `random` is worse than `cl`: supported (-60.00, 95 % interval -60.00 to -60.00" in text
    assert "nsum: `random` is better than `cl`: supported (-30.00" in text


def test_equal_variants_are_reported_as_no_difference_found():
    same = contrasts(
        runs(variants={"random": 50.0, "cl": 50.0}),
        [("random", "cl")],
        settings=["fine_tuned"],
        seed=0,
        draws=100,
    )
    text = tables.ablation_table(same)
    assert "no difference found between `random` and `cl` (0.00" in text and "supported" not in text


def test_claims_are_judged_in_either_direction_and_what_was_not_run_says_so(compared):
    text = tables.claims_table(paper.claims(), compared)
    lines = {line.split(" (section")[0][2:]: line.strip("|").split("|") for line in text.splitlines()[2:]}
    assert lines["The curriculum beats random order after fine-tuning"][-1].strip() == "supported"
    assert lines["The reversed order degrades ReID after fine-tuning"][-1].strip() == "supported"
    assert lines["Infrared pre-training pays after fine-tuning"][-1].strip() == "not run"
    random = lines["The curriculum beats random order in the sum of accuracies"]
    assert random[2].strip() == "+21.47 (its text: +14.47)"


def test_a_claim_that_the_data_contradict_is_called_the_opposite():
    worse = contrasts(
        runs(variants={"random": 60.0, "cl": 50.0}),
        [("cl", "random")],
        settings=["fine_tuned"],
        seed=0,
        draws=1000,
    )
    line = [row for row in tables.claims_table(paper.claims(), worse).splitlines() if "beats random order after" in row]
    assert line[0].strip("|").split("|")[-1].strip() == "the opposite"


def test_costs_add_up_by_stage_and_memory_takes_the_highest():
    costs = [
        {"stage": "train", "wall_s": 60, "cpu_s": 100.4, "peak_mb": 900},
        {"stage": "train", "wall_s": 40, "cpu_s": 100.0, "peak_mb": 700},
        {"stage": "tables", "wall_s": 5, "cpu_s": 5, "peak_mb": 200},
    ]
    text = tables.costs_table(costs)
    assert row_of(text, "`train`") == ["`train`", "2", "100", "200", "900"]
    assert row_of(text, "all") == ["all", "3", "105", "205", "900"]
    with pytest.raises(ValueError, match="lacks.*peak_mb"):
        tables.costs_table([{"stage": "train", "wall_s": 1, "cpu_s": 1}])


def test_counts_have_totals():
    samples = pd.DataFrame({"source": ["a", "a", "b"], "band": ["nir", "tir", "tir"]})
    text = tables.counts_table(samples)
    assert row_of(text, "a") == ["a", "1", "1", "2"] and row_of(text, "all") == ["all", "1", "2", "3"]


def test_table_1_needs_all_of_the_papers_properties():
    ours = {name: "yes" for name in paper.table1().property}
    assert row_of(tables.table1(ours, paper.table1()), "Benchmark tasks")[1:] == ["6", "9", "yes"]
    with pytest.raises(ValueError, match="Open-source"):
        tables.table1({k: v for k, v in ours.items() if k != "Open-source"}, paper.table1())


def test_csv_is_rounded_and_ends_its_lines_alike_everywhere():
    assert tables.to_csv(pd.DataFrame({"a": [1 / 3], "b": ["x"]})) == "a,b\n0.3333,x\n"


def test_numbers_never_read_minus_zero():
    assert tables.number(-0.001) == "0.00" and tables.signed(-0.001) == "0.00" and tables.signed(0.004) == "0.00"
    assert tables.signed(1.2) == "+1.20" and tables.number(np.nan) == "–"


README = "top\n<!-- results:start -->\nold\n<!-- results:end -->\nmiddle\n<!-- costs:start --><!-- costs:end -->\n"


def test_a_section_is_replaced_between_its_markers_and_nothing_else():
    text = tables.replace_section(README, "results", r"new \1 | row" + "\n")
    assert text == README.replace("old", r"new \1 | row")
    assert tables.replace_section(text, "results", r"new \1 | row") == text


def test_an_unknown_section_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="'claims'.*costs, results"):
        tables.replace_section(README, "claims", "x")
