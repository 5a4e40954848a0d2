"""The registry: what its file says, what it refuses, and what follows from it."""

import re
import tomllib
from dataclasses import fields
from importlib.resources import files

import pytest
from faulty_files import coco_folder, colour_png, gray_png, put

from irgpt_lib.irtd.sources import FORMATS, SOURCES, MalformedFile, UnknownName
from irgpt_lib.irtd.sources.naming import NAME_RULES
from irgpt_lib.irtd.sources.reading import (
    at_a_glance,
    check_all,
    check_folder,
    completeness,
    default_root,
    folder_source,
    format_of,
    overview,
    read,
)
from irgpt_lib.irtd.sources.registry import check_values, parse_registry, refuse_synthetic
from irgpt_lib.irtd.sources.source import UNKNOWN, Complete, NotAuthentic, Source

TEXT = files("irgpt_lib.irtd.sources").joinpath("registry.toml").read_text(encoding="utf-8")
ENTRY = """
name = "a"
index = 1
title = "A"
band = "tir"
paired = false
task = "t"
format = "coco"
folder = "a"
home = "h"
terms = "t"
what_belongs_there = "w"
"""
COMMIT = "f8100db7ce3ab602005dd9f32854bb57d4de9b87"


def registry(*entries: str, formats: str = '["coco", "voc"]') -> str:
    return f"formats = {formats}\n" + "".join(f"[[source]]\n{entry}" for entry in entries)


def example(**changes: object) -> Source:
    plain = dict(name="a", index=1, title="A", band="tir", paired=False, task="t", format="coco", folder="a")
    return Source(**plain | dict(home="h", terms="t", what_belongs_there="w") | changes)


# The file


def test_it_names_the_formats_that_adapters_read_and_uses_each():
    assert set(tomllib.loads(TEXT)["formats"]) == set(FORMATS)
    used = {format for source in SOURCES.values() for format in (source.format, *source.alternatives)}
    assert used - {UNKNOWN} == set(FORMATS)


def test_it_holds_every_index_of_the_releases_list():
    numbered = {source.index for source in SOURCES.values() if isinstance(source.index, int)}
    group = {source.index for source in SOURCES.values() if isinstance(source.index, str)}
    # the list runs from 1 to 63; 5, 15, 25 and 26 are missing and 32 to 50 are one group
    assert numbered == set(range(1, 64)) - {5, 15, 25, 26} - set(range(32, 51))
    assert group == {"32-50"}
    assert [source.name for source in SOURCES.values() if source.index is None] == ["hit_uav"]


def test_the_paper_keeps_one_percent_of_vtuav():
    assert SOURCES["vtuav"].keep_every == 100


def test_every_source_has_a_name_rule_that_exists_and_a_way_of_getting():
    for source in SOURCES.values():
        assert source.naming in NAME_RULES, source.name
        assert source.get, source.name
        assert source.route == "V" or source.paired, f"{source.name}: path IV describes a visible mate"


def test_a_source_of_unknown_format_says_what_is_not_known():
    unread = [source for source in SOURCES.values() if source.format == UNKNOWN]
    assert unread
    assert all(source.doubts for source in unread)


def test_no_registered_text_gives_a_local_path():
    assert not re.search(r'"/(home|work|mnt|tmp|opt)\b', TEXT)


# What is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("formats = [", "not valid TOML"),
        ("x = 1", "expected the list `formats`"),
        (registry(ENTRY) + 'colour = "red"\n', r"source 1 \(a\): colour: Unexpected keyword"),
        (registry(ENTRY.replace('name = "a"\n', "")), "source 1: name: Field required"),
        (registry(ENTRY.replace("paired = false", "paired = 0")), "paired: Input should be a valid boolean"),
        (registry(ENTRY.replace('"tir"', '"uv"')), "band: Input should be 'nir', 'swir' or 'tir'"),
        (registry(ENTRY) + "date = 2024-01-01\n", "date is not JSON serializable"),
        (registry(ENTRY, ENTRY), "name or folder 'a' stands twice"),
        (registry(ENTRY, ENTRY.replace('name = "a"', 'name = "b"')), "b: name or folder 'a' stands twice"),
        (registry(ENTRY, formats='["voc"]'), r"a: no such format: \['coco'\]; known: voc"),
        (registry(ENTRY.replace('"coco"', '"unknown"')), "needs `doubts`"),
        (registry(ENTRY) + "keep_every = 0\n", "keep_every is 0"),
        (registry(ENTRY.replace('folder = "a"', 'folder = "../a"')), "unsafe path"),
        (registry(ENTRY) + '[[source.get]]\nmethod = "magic"\n', "get.0.method: Input should be 'git'"),
        (registry(ENTRY) + '[[source.get]]\nmethod = "git"\nurl = "u"\n', "get by git needs rev, path"),
        (registry(ENTRY) + '[[source.get]]\nmethod = "url"\nurl = "u"\n', "get by url needs sha256"),
        (registry(ENTRY) + '[[source.get]]\nmethod = "manual"\nout = "/etc"\n', "unsafe path"),
        (
            registry(ENTRY) + '[[source.get]]\nmethod = "git"\nurl = "u"\npath = "p"\nrev = "main"\n',
            "get.rev 'main' is not 40 hexadecimal digits",
        ),
    ],
)
def test_a_bad_entry_is_refused_by_source_and_key(text, message):
    with pytest.raises(MalformedFile, match=message):
        parse_registry(text, "registry.toml")


def test_an_entry_becomes_a_source_field_by_field():
    extra = f"""keep_every = 5
doubts = ["one", "two"]
[source.complete]
images = 3
[[source.get]]
method = "git"
url = "https://example.org/a"
rev = "{COMMIT}"
path = "data"
"""
    source = parse_registry(registry(ENTRY + extra))["a"]
    assert (source.index, source.keep_every, source.doubts) == (1, 5, ("one", "two"))
    assert source.complete == Complete(images=3)
    assert (source.get[0].rev, source.get[0].out) == (COMMIT, "")
    assert len(fields(source)) == len(fields(SOURCES["kaist"]))
    check_values(source, "here")


def test_an_entry_without_an_index_is_one_that_the_release_lacks():
    assert parse_registry(registry(ENTRY.replace("index = 1\n", "")))["a"].index is None


# Authenticity


def test_authentic_sources_pass_and_others_are_listed():
    refuse_synthetic(["kaist", "hit_uav", "a folder of mine"])
    with pytest.raises(NotAuthentic, match="not authentic: wideirstd, simulated:"):
        refuse_synthetic(["kaist", "wideirstd", "simulated"])


# Reading


def test_a_source_of_unknown_format_is_read_only_by_a_format_that_one_names(tmp_path):
    with pytest.raises(UnknownName, match="cdfag: no adapter.*--format flir_csv|"):
        format_of(SOURCES["cdfag"])
    assert format_of(SOURCES["cdfag"], "coco") == "coco"
    root = coco_folder(tmp_path / "cdfag", [])
    (sample,) = read("coco", root, SOURCES["cdfag"])
    assert sample.sample_id == "cdfag/a"
    report = check_folder(SOURCES["cdfag"], root)
    assert (report["present"], report["readable"], report["complete"]) == (True, False, None)
    assert "no adapter, because the layout of CDFAG has not been seen" in report["message"]


def test_a_folder_of_ones_own_expects_what_the_first_source_of_its_format_holds(tmp_path):
    assert folder_source("coco", tmp_path).what_belongs_there == SOURCES["hit_uav"].what_belongs_there


def test_complete_compares_paths_and_counts_with_the_registry(tmp_path):
    put(tmp_path / "infrared" / "a.png", gray_png())
    assert completeness(example(), tmp_path) is None
    assert completeness(example(), tmp_path / "absent") is False
    assert completeness(example(complete=Complete(images=1)), tmp_path) is True
    assert completeness(example(complete=Complete(images=2)), tmp_path) is False
    put(tmp_path / "infrared" / "preview.png", colour_png())
    assert completeness(example(complete=Complete(images=1, paths=("infrared",))), tmp_path) is True
    assert completeness(example(complete=Complete(images=1, paths=("visible",))), tmp_path) is False


def test_at_a_glance_tells_absent_readable_and_broken_apart(tmp_path):
    source = example()
    assert at_a_glance(source, tmp_path / "absent")["present"] is False
    root = coco_folder(tmp_path / "a", [])
    assert at_a_glance(source, root) == {
        "source": "a",
        "root": str(root),
        "present": True,
        "complete": None,
        "readable": True,
    }
    put(root / "annotations" / "val.json", "{")
    assert at_a_glance(source, root)["readable"] is False
    assert at_a_glance(SOURCES["cdfag"], root)["readable"] is None


def test_every_absent_source_is_listed_and_checked_without_an_error(tmp_path):
    absent = [name for name in SOURCES if not default_root(SOURCES[name], tmp_path).is_dir()]
    glances = {glance["source"]: glance["present"] for glance in overview(tmp_path)}
    assert list(glances) == list(SOURCES)
    assert [name for name, present in glances.items() if not present] == absent
    reports = {report["source"]: report for report in check_all(tmp_path)}
    for name in absent:
        assert reports[name]["message"].startswith(f"{name}: "), name
