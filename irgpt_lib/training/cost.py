"""What a training took: time, memory, and energy where the machine tells it."""

import importlib.util
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

POWERCAP = Path("/sys/class/powercap")
READ_EVERY_S = 10.0
# More than a processor package draws: the counter of one that was read this late may have gone round unseen.
GREATEST_W = 1000.0
J_PER_WH = 3600.0
NOT_TOLD = "not told"
_BYTES_PER_RSS_UNIT = 1 if sys.platform == "darwin" else 1024

Value = str | int | float | None


@runtime_checkable
class EnergyCounter(Protocol):
    """A counter of joules that starts anywhere; `name` says whose."""

    name: str

    def joules(self) -> float | None:
        """Since some moment before the first reading; None once a reading is not to be trusted."""


class Rapl:
    """The processor packages of this machine, all that runs on them included, from Linux' powercap.

    A package's counter goes round at `max_energy_range_uj`, within minutes at full load, so it must be read often: two
    readings so far apart that it might have gone round unseen make the sum worthless.
    """

    name = "RAPL, whole processor packages"

    def __init__(self, zones: Sequence[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._zones, self._clock = list(zones), clock
        self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in zones]
        self._before, self._at = self._read(), clock()
        self._microjoules: int | None = 0

    def joules(self) -> float | None:
        now, at = self._read(), self._clock()
        elapsed, self._at = at - self._at, at
        if any(GREATEST_W * elapsed * 1e6 >= full for full in self._ranges):
            self._microjoules = None
        if self._microjoules is not None:
            steps = zip(now, self._before, self._ranges, strict=True)
            self._microjoules += sum((new - old) % full for new, old, full in steps)
        self._before = now
        return None if self._microjoules is None else self._microjoules / 1e6

    def _read(self) -> list[int]:
        return [int((zone / "energy_uj").read_text()) for zone in self._zones]


class Nvml:
    """One NVIDIA device, all that runs on it included; its driver counts millijoules since it was loaded."""

    name = "NVML, whole device"

    def __init__(self, uuid: str) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        self.joules()

    def joules(self) -> float | None:
        return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1000


def energy_counter(device: torch.device, powercap: Path = POWERCAP) -> EnergyCounter | None:
    """The device's own counter, None where the machine tells nothing: no `nvidia-ml-py` beside a GPU, a GPU older than
    Volta, powercap absent or readable for root only."""
    if device.type == "cuda":
        return _nvml(device)
    # `intel-rapl:0` is a package, `intel-rapl:0:1` a part of it; AMD's have the same names
    zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    try:
        packages = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
        return Rapl(packages) if packages else None
    except OSError:
        return None


def _nvml(device: torch.device) -> EnergyCounter | None:
    if importlib.util.find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        return Nvml(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except pynvml.NVMLError:
        return None


@dataclass(frozen=True)
class Usage:
    """Of this process since it started: processor seconds with its ended children, peak resident bytes, and peak bytes
    that torch has had in use on the GPU since the meter started (0 without one)."""

    cpu_s: float
    rss: int
    cuda: int


def usage(device: torch.device) -> Usage:
    mine, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = sum(each.ru_utime + each.ru_stime for each in (mine, children))
    cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Usage(cpu, mine.ru_maxrss * _BYTES_PER_RSS_UNIT, cuda)


class Meter:
    """Starts counting when it is made. As an `on_step` of `fit` it counts steps and samples and reads the energy, which
    must be read now and then (`Rapl`); rows without `samples` are repeated ones of an earlier, killed process, whose
    cost is not known.

    `devices` is how many devices like `device` train together; energy and memory are those of this process' device.
    """

    def __init__(
        self,
        device: torch.device,
        devices: int = 1,
        *,
        counter: EnergyCounter | None = None,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[torch.device], Usage] = usage,
    ) -> None:
        self._device, self._devices, self._counter, self._clock, self._used = device, devices, counter, clock, used
        self._steps = self._samples = self._unmeasured = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._began, self._cpu_s = clock(), used(device).cpu_s
        self._first_j = self._last_j = counter.joules() if counter else None
        self._read_at = self._began

    def __call__(self, row: Mapping[str, float]) -> None:
        if "samples" not in row:
            self._unmeasured += 1
            return
        self._steps, self._samples = self._steps + 1, self._samples + int(row["samples"])
        if self._clock() - self._read_at >= READ_EVERY_S:
            self._read_energy()

    def record(self) -> dict[str, Value]:
        """The cost up to now, for a JSON file beside the run.

        `device`, `devices`, `steps` and `samples` trained in this process, `steps_not_measured` of killed ones before
        it, `wall_s`, `device_hours` (wall time times devices), `cpu_s`, `samples_per_s`, `peak_rss_mb` and
        `peak_cuda_mb` in 10^6 bytes (None without a GPU), `energy_wh` of this process' device (None: not told), and
        `energy_from`.
        """
        self._read_energy()
        wall, now = self._clock() - self._began, self._used(self._device)
        told = self._counter is not None and self._first_j is not None and self._last_j is not None
        cuda = self._device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self._device) if cuda else "CPU",
            "devices": self._devices,
            "steps": self._steps,
            "samples": self._samples,
            "steps_not_measured": self._unmeasured,
            "wall_s": wall,
            "device_hours": self._devices * wall / 3600,
            "cpu_s": now.cpu_s - self._cpu_s,
            "samples_per_s": self._samples / wall if wall > 0 else None,
            "peak_rss_mb": now.rss / 1e6,
            "peak_cuda_mb": now.cuda / 1e6 if cuda else None,
            "energy_wh": (self._last_j - self._first_j) / J_PER_WH if told else None,
            "energy_from": self._counter.name if told else NOT_TOLD,
        }

    def _read_energy(self) -> None:
        self._read_at = self._clock()
        if self._counter is not None:
            self._last_j = self._counter.joules()


def cost_line(record: Mapping[str, Value]) -> str:
    """The record in one line for people."""
    devices = f"{record['devices']} x " if record["devices"] != 1 else ""
    memory = f"{record['peak_rss_mb']:,.0f} MB resident"
    if record["peak_cuda_mb"] is not None:
        memory += f", {record['peak_cuda_mb']:,.0f} MB on the GPU"
    energy = NOT_TOLD if record["energy_wh"] is None else f"{record['energy_wh']:.3g} Wh ({record['energy_from']})"
    line = (
        f"{devices}{record['device']}: {record['samples']:,} samples in {record['steps']:,} steps, "
        f"{record['wall_s']:.0f} s, {record['device_hours']:.3g} device-hours; peak {memory}; energy {energy}"
    )
    missing = record["steps_not_measured"]
    return f"{line}; without {missing:,} steps of an earlier process" if missing else line
