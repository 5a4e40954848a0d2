"""Live curves of a training in the tracker that params name: DVCLive, TensorBoard, W&B or MLflow.

A tracker mirrors the history that `fit` returns and that the run keeps, so training never waits for it to recover and
never ends because of it; what did not reach it is counted and told. The four are optional packages, imported when they
are asked for. Nothing leaves the machine unless `network` is set.
"""

import importlib.util
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from tqdm import tqdm

Kind = Literal["none", "dvclive", "tensorboard", "wandb", "mlflow"]
Setting = str | int | float | bool | list | None
Values = tuple[int, dict[str, float]]
OnStep = Callable[[dict[str, float]], None]

EVERY_S = 5.0
RETRY_S, LONGEST_RETRY_S = 60.0, 900.0
PROJECT = "irgpt"
NEEDED = {
    "dvclive": ["dvclive"],
    "tensorboard": ["tensorboard"],
    "wandb": ["wandb"],
    "mlflow": ["mlflow", "sqlalchemy", "alembic"],  # without its database, as `mlflow-skinny`, it has nowhere to write
}


class MissingTracker(ImportError):
    """The package of the chosen tracker is not installed; the message says how to install it."""


@dataclass(frozen=True)
class Run:
    """What a tracker is told once: `run` (such as `cl-0`), `label` (the stage), `settings` by name, where its files lie
    and whether it may use the network."""

    run: str
    label: str
    folder: Path
    settings: Mapping[str, Setting] = field(default_factory=dict)
    network: bool = False

    @property
    def name(self) -> str:
        return f"{self.run} {self.label}"


@runtime_checkable
class BackEnd(Protocol):
    """One open run of a tracker; any method may raise anything."""

    rows_at_once: int

    def write(self, rows: Sequence[Values]) -> None:
        """At most `rows_at_once` rows of (step, values), in order."""

    def flush(self) -> None:
        """Make visible what was written."""

    def close(self) -> None: ...


class Tracker:
    """An `on_step` of `fit`: rows are gathered and handed on every few seconds.

    A row holds `step`, numbers to be logged under their names, and `samples`, from which with the time since the row
    before comes `samples_per_s`. The rows that a resumed training repeats have no `samples`.

    When the back end fails this is said once, training goes on, the rows are kept, and it is tried again after one
    minute, then two, up to 15. `close` tries a last time and says which steps are missing.
    """

    def __init__(
        self,
        open_back_end: Callable[[], BackEnd],
        name: str,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open, self._name, self._every_s, self._clock = open_back_end, name, every_s, clock
        self._back_end: BackEnd | None = None
        self._waiting: deque[Values] = deque()
        self._seen = 0
        self._last: float | None = None
        self._due = clock() + every_s
        self._pause_s = RETRY_S
        self._error: Exception | None = None

    def __call__(self, row: Mapping[str, float]) -> None:
        now = self._clock()
        values = {name: float(value) for name, value in row.items() if name not in ("step", "samples")}
        if "samples" in row and self._last is not None and now > self._last:
            values["samples_per_s"] = row["samples"] / (now - self._last)
        self._last = now
        self._waiting.append((int(row["step"]), values))
        self._seen += 1
        if now >= self._due:
            self._deliver()

    @property
    def missing(self) -> list[int]:
        """The steps that have not been handed on."""
        return [step for step, _ in self._waiting]

    def close(self) -> None:
        """Hand on what is left, end the tracker's run, and say what is missing. Raises nothing that the back end
        raises."""
        if self._waiting:
            self._deliver()
        try:
            if self._back_end is not None:
                self._back_end.close()
        except Exception as error:  # noqa: BLE001
            self._error = error
            _say(f"{self._name}: closing failed, its last steps may be missing there: {_told(error)}")
        if missing := self.missing:
            _say(
                f"{self._name}: {len(missing)} of {self._seen} steps are missing there, {missing[0]} to {missing[-1]} "
                f"({_told(self._error)}); the training history holds them all"
            )

    def _deliver(self) -> None:
        try:
            self._back_end = self._back_end or self._open()
            while self._waiting:
                rows = list(islice(self._waiting, self._back_end.rows_at_once))
                self._back_end.write(rows)
                for _ in rows:
                    self._waiting.popleft()
            self._back_end.flush()
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises, the training is worth more
            if self._error is None:
                _say(f"{self._name}: {_told(error)}; training goes on, its rows are kept and tried again")
            self._error = error
            self._due, self._pause_s = self._clock() + self._pause_s, min(2 * self._pause_s, LONGEST_RETRY_S)
        else:
            self._due, self._pause_s = self._clock() + self._every_s, RETRY_S


@contextmanager
def tracked(
    kind: Kind,
    folder: Path,
    run: str,
    label: str,
    *,
    settings: Mapping[str, Setting] | None = None,
    network: bool = False,
) -> Iterator[Tracker | None]:
    """The `on_step` for one training, None for `none`; closed with the block.

    The tracker's files lie in `folder/<kind>/<run>/<label>`, which is emptied first: a resumed training repeats the
    rows of its earlier steps, so the new files are complete. In MLflow, which has one database for all runs in
    `folder/mlflow`, and on servers a resumed training is a new run of the same name. With `network`, DVCLive may send
    to DVC Studio, W&B to its server and MLflow to `MLFLOW_TRACKING_URI`.

    Raises:
        MissingTracker: the package is not installed.
    """
    if kind == "none":
        yield None
        return
    require(kind)
    told = Run(run, label, folder / kind / run / label.replace(" ", "-"), settings or {}, network)
    tracker = Tracker(partial(BACK_ENDS[kind], told), f"tracker {kind}, {told.name}")
    try:
        yield tracker
    finally:
        tracker.close()


def each_of(*listeners: OnStep | None) -> OnStep:
    """One `on_step` that tells all of them, in order; None is none."""

    def tell(row: dict[str, float]) -> None:
        for listener in listeners:
            if listener is not None:
                listener(row)

    return tell


def require(kind: Kind) -> None:
    """Nothing, if the tracker's package is installed.

    Raises:
        MissingTracker: it is not.
    """
    if any(importlib.util.find_spec(module) is None for module in NEEDED.get(kind, ())):
        raise MissingTracker(
            f"the tracker {kind} is not installed: `pip install -c requirements.lock -e '.[{kind}]'`, or set "
            "`train.tracker` to none in params.yaml"
        )


class DVCLive:
    """`metrics.json` and one table a metric, which `dvc plots` reads; no DVC experiment is made."""

    rows_at_once = 1

    def __init__(self, run: Run) -> None:
        with _environment({} if run.network else {"DVC_STUDIO_OFFLINE": "true"}):
            from dvclive import Live

            self._live = Live(dir=str(_emptied(run.folder)), save_dvc_exp=False, dvcyaml=None)
        self._live.log_params(dict(run.settings))

    def write(self, rows: Sequence[Values]) -> None:
        for step, values in rows:
            self._live.step = step
            for name, value in values.items():
                self._live.log_metric(name, value)

    def flush(self) -> None:
        self._live.sync()  # at every step it would cost more than the step's rows

    def close(self) -> None:
        self._live.end()


class TensorBoard:
    """Event files; `tensorboard --logdir` on the folder above shows all runs."""

    rows_at_once = 1

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(_emptied(run.folder))
        self._writer.add_text("settings", "\n".join(f"- `{name}`: {value}" for name, value in run.settings.items()))

    def write(self, rows: Sequence[Values]) -> None:
        for step, values in rows:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `irgpt`, of the group of its variant and seed; offline, `wandb sync` can send it later."""

    rows_at_once = 1

    def __init__(self, run: Run) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._run = wandb.init(
            project=PROJECT,
            name=run.name,
            group=run.run,
            job_type=run.label,
            dir=str(_emptied(run.folder)),
            config=dict(run.settings),
            mode="online" if run.network else "offline",
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_machine_info=True),
        )

    def write(self, rows: Sequence[Values]) -> None:
        for step, values in rows:
            self._run.log(values, step=step)

    def flush(self) -> None:
        """W&B sends by itself."""

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of the experiment `irgpt`: on the server of `MLFLOW_TRACKING_URI`, or in one `mlflow.db` for all runs."""

    rows_at_once = 100  # a request may hold 1000 values

    def __init__(self, run: Run) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        # in a process MLflow keeps a database open for good: it cannot be emptied under a notebook that runs again
        shared = run.folder.absolute().parents[1]
        shared.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(None if run.network else f"sqlite:///{shared / 'mlflow.db'}")
        known = self._client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else self._client.create_experiment(PROJECT)
        self._id = self._client.create_run(experiment, run_name=run.name, tags={"run": run.run}).info.run_id
        for name, value in run.settings.items():
            self._client.log_param(self._id, name, value)

    def write(self, rows: Sequence[Values]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for step, values in rows for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def flush(self) -> None:
        """Each batch is one request."""

    def close(self) -> None:
        self._client.set_terminated(self._id)


BACK_ENDS: dict[str, Callable[[Run], BackEnd]] = {
    "dvclive": DVCLive,
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder.absolute()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def _told(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}"
