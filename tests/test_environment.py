"""One place says which versions the study uses, and none says where they come from."""

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

from irgpt_lib.training.tracking import NEEDED

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(text) for text in [*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["elpv"]]]
LOCK_LINES = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
LOCK = {canonicalize_name(name): version for name, version in (line.split("==") for line in LOCK_LINES)}


def test_the_lock_holds_exact_versions_and_nothing_else():
    odd = [line for line in LOCK_LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)]
    assert not odd, "an address, a local build such as +cpu, a range or a comment"
    assert len(LOCK) == len(LOCK_LINES), "a package stands twice"


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_the_lock_pins_every_direct_dependency_within_its_range(requirement):
    pinned = LOCK[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(Version(pinned)), f"{requirement} but {pinned}"


def test_what_is_locked_runs_on_the_oldest_python_that_is_promised():
    """A package may ask for a later patch of 3.11 than a distribution's own Python has."""
    oldest = PROJECT["requires-python"].partition(",")[0].removeprefix(">=") + ".0"
    asked = {dist.metadata["Name"]: dist.metadata["Requires-Python"] for dist in distributions()}
    locked = {name: asks for name, asks in asked.items() if canonicalize_name(name) in LOCK and asks}
    assert len(locked) > len(DIRECT)
    assert not {name: asks for name, asks in locked.items() if not SpecifierSet(asks).contains(oldest)}


def test_conda_brings_python_and_leaves_the_versions_to_the_project():
    environment = YAML(typ="safe").load(ROOT / "environment.yml")
    assert set(environment) == {"name", "channels", "dependencies"}
    python, pip, through_pip = environment["dependencies"]
    assert re.fullmatch(r"python=3\.\d+", python) and pip == "pip"
    assert through_pip == {"pip": ["-c requirements.lock", "-e .[test]"]}
    assert python.partition("=")[2] in PROJECT["requires-python"]


def test_every_tracker_and_the_energy_counter_have_an_extra():
    assert {*NEEDED, "energy", "elpv", "ray"} <= EXTRAS.keys()


def test_no_extra_asks_for_what_the_lock_rules_out():
    """The locked packages stay as they are when an extra is installed beside them."""
    asked = [Requirement(text) for texts in EXTRAS.values() for text in texts]
    odd = [str(r) for r in asked if (pin := LOCK.get(canonicalize_name(r.name))) and not r.specifier.contains(pin)]
    assert not odd


def test_torch_and_torchvision_are_a_pair():
    """A torchvision asks for one torch; another would bring that torch in its wake."""
    assert (LOCK["torch"], LOCK["torchvision"]) == ("2.13.0", "0.28.0")
    exact = {requirement.name for requirement in DIRECT if str(requirement.specifier).startswith("==")}
    assert {"torch", "torchvision"} <= exact
