import json

import pytest
import torch

from irgpt_lib.training import cost
from irgpt_lib.training.cost import Meter, Rapl, Usage, cost_line, energy_counter

CPU = torch.device("cpu")
FULL = 262_143_328_850


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Counter:
    name = "a counter"

    def __init__(self, *joules):
        self.readings = list(joules)

    def joules(self):
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


def used(*of):
    """Each call tells the next usage, the last one for ever."""
    left = list(of)
    return lambda device: left.pop(0) if len(left) > 1 else left[0]


def zone(folder, name, said, energy, full=FULL):
    """A powercap folder; `energy` in microjoules."""
    made = folder / name
    made.mkdir(parents=True, exist_ok=True)
    (made / "name").write_text(f"{said}\n")
    (made / "energy_uj").write_text(f"{energy}\n")
    (made / "max_energy_range_uj").write_text(f"{full}\n")
    return made


def meter(clock, counter=None, **options):
    usages = used(Usage(5.0, 10, 0), Usage(65.0, 2_000_000_000, 0))
    return Meter(CPU, counter=counter, clock=clock, used=usages, **options)


def test_the_record_of_a_run():
    clock = Clock()
    metered = meter(clock, Counter(1000.0, 1500.0, 8200.0), devices=4)
    for step in range(1, 4):
        clock.now += 10
        metered({"step": step, "samples": 32})
    record = metered.record()
    assert record == {
        "device": "CPU",
        "devices": 4,
        "steps": 3,
        "samples": 96,
        "steps_not_measured": 0,
        "wall_s": 30.0,
        "device_hours": pytest.approx(4 * 30 / 3600),
        "cpu_s": 60.0,
        "samples_per_s": pytest.approx(3.2),
        "peak_rss_mb": 2000.0,
        "peak_cuda_mb": None,
        "energy_wh": pytest.approx(2.0),
        "energy_from": "a counter",
    }
    assert json.loads(json.dumps(record)) == record
    line = cost_line(record)
    assert line == (
        "4 x CPU: 96 samples in 3 steps, 30 s, 0.0333 device-hours; peak 2,000 MB resident; energy 2 Wh (a counter)"
    )


def test_energy_that_no_one_tells_is_not_zero():
    record = meter(Clock()).record()
    assert record["energy_wh"] is None and record["energy_from"] == "not told"
    assert cost_line(record).endswith("energy not told") and record["samples_per_s"] is None


def test_steps_of_a_killed_process_are_told_apart():
    clock = Clock()
    metered = meter(clock)
    for step in (1, 2):
        metered({"step": step})
    clock.now += 5
    metered({"step": 3, "samples": 8})
    record = metered.record()
    assert (record["steps"], record["samples"], record["steps_not_measured"]) == (1, 8, 2)
    assert cost_line(record).endswith("without 2 steps of an earlier process")


def test_energy_is_read_often_but_not_at_every_step():
    clock, counter = Clock(), Counter(*map(float, range(100)))
    metered = meter(clock, counter)
    for step in range(1, 41):
        clock.now += 1
        metered({"step": step, "samples": 1})
    assert counter.readings[0] == 1 + 40 / cost.READ_EVERY_S


def test_a_counter_that_went_round(tmp_path):
    clock = Clock()
    package = zone(tmp_path, "intel-rapl:0", "package-0", FULL - 3_000_000)
    rapl = Rapl([package], clock)
    clock.now += 10
    zone(tmp_path, "intel-rapl:0", "package-0", 2_000_000)
    assert rapl.joules() == pytest.approx(5.0)
    clock.now += 10
    zone(tmp_path, "intel-rapl:0", "package-0", 12_000_000)
    assert rapl.joules() == pytest.approx(15.0)


def test_a_counter_that_may_have_gone_round_unseen_tells_nothing_any_more(tmp_path):
    clock = Clock()
    rapl = Rapl([zone(tmp_path, "intel-rapl:0", "package-0", 0)], clock)
    clock.now += FULL / 1e6 / cost.GREATEST_W + 1
    assert rapl.joules() is None
    clock.now += 1
    assert rapl.joules() is None
    record = meter(clock, rapl).record()
    assert record["energy_wh"] is None and record["energy_from"] == "not told"


def test_packages_are_counted_once_and_without_their_parts(tmp_path):
    for name, said in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl-mmio:0", "package-0"),
    ):
        zone(tmp_path, name, said, 0)
    counter = energy_counter(CPU, tmp_path)
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
        (tmp_path / name / "energy_uj").write_text("7000000")
    assert counter.joules() == pytest.approx(14.0)


def test_a_machine_that_tells_nothing(tmp_path):
    assert energy_counter(CPU, tmp_path / "absent") is None
    zone(tmp_path, "intel-rapl:0", "psys", 0)
    assert energy_counter(CPU, tmp_path) is None


def test_a_counter_for_root_only(tmp_path, monkeypatch):
    zone(tmp_path, "intel-rapl:0", "package-0", 0)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Rapl, "_read", refuse)
    assert energy_counter(CPU, tmp_path) is None


def test_a_gpu_without_the_library_tells_nothing(monkeypatch):
    monkeypatch.setattr(cost.importlib.util, "find_spec", lambda name: None)
    assert energy_counter(torch.device("cuda", 0)) is None


def test_this_process_has_used_time_and_memory():
    now = cost.usage(CPU)
    assert now.cpu_s > 0 and 1e8 < now.rss < 1e12 and now.cuda == 0
