"""The generated sections of README.md: what they show, when they are stale, and that a missing table is an error."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from irgpt_lib import params
from irgpt_lib.cli import app
from irgpt_lib.cli.readme import README_TABLES, commit, difficulty_text, processor
from irgpt_lib.report.tables import replace_section

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = ("results", "checks", "claims", "difficulty", "costs")
STEMS = (
    *("00_base", "01_dataset", "02_features", "03_difficulty", "04_curriculum"),
    *("05_train-cl-0", "06_evaluate-cl-0", "07_ablations", "08_tables", "09_checks"),
    *("10_failures-cl-0", "11_robustness-cl-0"),
)


def call(*words: str):
    return CliRunner().invoke(app, ["readme", *words])


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of one run whose README holds empty sections; each of its notebooks took 10 s and 20 CPU-s."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IRGPT_ARTIFACTS", raising=False)
    monkeypatch.delenv("IRGPT_PROFILE", raising=False)
    monkeypatch.setenv("IRGPT_RUNS", "cl-0")
    sections = "".join(f"## {name}\n<!-- {name}:start --><!-- {name}:end -->\n" for name in NAMES)
    (tmp_path / "README.md").write_text(f"# Title\n{sections}the end\n")
    for name in ("tables", "costs"):
        (tmp_path / "artifacts" / name).mkdir(parents=True)
    for name, table in README_TABLES.items():
        (tmp_path / "artifacts" / table).write_text(f"| {name} |\n|:--|\n| a\\b |\n")
    shutil.copytree(ROOT / "artifacts" / "checks", tmp_path / "artifacts" / "checks")
    for number, stem in enumerate(STEMS):
        cost = {"notebook": stem.partition("-")[0], "parameters": {"profile": "smoke"}}
        cost |= {"wall_s": 10, "cpu_s": 20, "peak_mb": 100 + number}
        (tmp_path / "artifacts" / "costs" / f"{stem}.json").write_text(json.dumps(cost))
    return tmp_path


def test_each_section_gets_its_table_and_nothing_else_changes(study):
    assert call().exit_code == 0
    text = (study / "README.md").read_text()
    for name in README_TABLES:
        assert f"## {name}\n<!-- {name}:start -->\n| {name} |\n|:--|\n| a\\b |\n<!-- {name}:end -->\n" in text
    assert text.startswith("# Title\n") and text.endswith("<!-- costs:end -->\nthe end\n")


def test_the_costs_add_up_and_name_profile_machine_and_torch(study):
    call()
    body = (study / "README.md").read_text().partition("<!-- costs:start -->")[2]
    total = next(line for line in body.splitlines() if line.startswith("| all "))
    assert [cell.strip() for cell in total.strip("|").split("|")] == ["all", "12", "120", "240", "111"]
    assert "| `failures` " in body and "| `robustness` " in body
    assert "Profile `smoke` on " in body and processor() in body and "torch 2." in body


def test_a_second_writing_changes_nothing(study):
    call()
    first = (study / "README.md").read_bytes()
    assert call().exit_code == 0
    assert (study / "README.md").read_bytes() == first


def test_check_writes_nothing_and_passes_only_once_the_tables_are_in(study):
    before = (study / "README.md").read_bytes()
    stale = call("--check")
    assert (stale.exit_code, (study / "README.md").read_bytes()) == (1, before)
    assert "results, checks, claims, difficulty out of date" in stale.stderr
    call()
    assert call("--check").exit_code == 0
    (study / "artifacts" / "tables" / "checks.md").write_text("| new |\n|:--|\n")
    assert "README.md: checks out of date" in call("--check").stderr


def test_check_does_not_ask_for_the_costs(study):
    call()
    shutil.rmtree(study / "artifacts" / "costs")
    assert call("--check").exit_code == 0


def test_kept_costs_stay_as_they_were(study):
    call()
    costs = (study / "README.md").read_text().partition("<!-- costs:start -->")[2]
    shutil.rmtree(study / "artifacts" / "costs")
    (study / "artifacts" / "tables" / "headline.md").write_text("| new |\n|:--|\n")
    assert call("--keep-costs").exit_code == 0
    text = (study / "README.md").read_text()
    assert "| new |" in text and text.partition("<!-- costs:start -->")[2] == costs


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda s: (s / "artifacts/tables/claims.md").unlink(), "claims.md: no such table; `dvc repro tables`"),
        (lambda s: (s / "artifacts/tables/claims.md").write_text("\n"), "claims.md: empty; `dvc repro tables`"),
        (lambda s: (s / "artifacts/costs/02_features.json").unlink(), "no cost of 02_features"),
        (lambda s: (s / "artifacts/costs/02_features.json").write_text("{}"), "02_features.json: not a cost"),
        (lambda s: (s / "artifacts/checks/bands.csv").unlink(), "no bands.csv; `dvc repro checks` writes them"),
        (lambda s: (s / "README.md").write_text("<!-- results:start --><!-- results:end -->"), "it has results"),
        (lambda s: (s / "README.md").unlink(), "README.md"),
    ],
    ids=["table absent", "table empty", "cost absent", "cost malformed", "no checks", "no markers", "no README"],
)
def test_what_is_missing_is_one_message_with_code_2_and_leaves_the_readme_alone(study, harm, says):
    harm(study)
    readme = study / "README.md"
    before = readme.read_bytes() if readme.is_file() else None
    result = call()
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert says in result.stderr
    assert (readme.read_bytes() if readme.is_file() else None) == before


def test_the_processor_is_read_from_the_description_of_linux(tmp_path):
    described = tmp_path / "cpuinfo"
    described.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert processor(described) == "Some CPU @ 2 GHz"
    assert processor(tmp_path / "absent")


@pytest.mark.parametrize("name", README_TABLES)
def test_the_readme_of_this_study_shows_the_tables_that_it_computed(name):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = (ROOT / "artifacts" / README_TABLES[name]).read_text(encoding="utf-8")
    assert replace_section(text, name, table) == text, "run `irgpt readme`"


def test_the_readme_of_this_study_shows_what_the_scores_measure(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("IRGPT_ARTIFACTS", raising=False)
    assert replace_section(README, "difficulty", difficulty_text()) == README, "run `irgpt readme`"


def test_the_costs_name_the_commit_and_whether_the_code_differs_from_it(tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    assert commit() == ""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], check=True)
    assert re.fullmatch(r", commit [0-9a-f]{7,}", commit())
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: b}}\n")
    assert commit().endswith(" with changes")


@pytest.mark.parametrize("profile", ["tiny", "gpu"])
def test_the_readme_states_how_many_images_a_profile_draws(profile, monkeypatch):
    monkeypatch.chdir(ROOT)
    images = sum(params.load("dataset", profile=profile).dataset.simulated.scenes.values())
    (row,) = [line for line in README.splitlines() if line.startswith(f"| `{profile}` |")]
    assert f"{images:,} images" in row


def test_the_variant_that_the_readme_adds_is_one_that_the_study_takes():
    (block,) = [b for b in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if b.startswith("variants:")]
    tree = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    (changes,) = YAML(typ="safe").load(block)["variants"].values()
    params.Train.model_validate(params.merged(tree["common"]["train"], changes["train"]))
