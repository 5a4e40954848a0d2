"""Checkpoints of a training: what it needs to go on as if it had never stopped.

A checkpoint is a folder `step-00000012` of two files: `state.safetensors` holds the trained tensors and the
optimiser's moments; `state.json` holds the position, the scheduler, the history, the settings, the other file's SHA-256
and its own. It appears whole or not at all, and the newest two are kept. What training draws at random hangs on no
state (`draws`), so none is stored. Parameters that are shared out over ranks are gathered one at a time and written
whole by the first rank, so that any number of ranks can go on; torch.distributed.checkpoint would leave a pickle.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from irgpt_lib import artifacts
from irgpt_lib.training.sharding import laid_out, whole

FORMAT = 1
KEPT = 2
TENSORS, STATE = "state.safetensors", "state.json"
MODEL = "model"


@dataclass(frozen=True)
class Progress:
    """What a checkpoint says: steps done, tensors by `part/parameter`, the scheduler's state, one row a step done."""

    step: int
    tensors: dict[str, Tensor]
    scheduler: dict[str, Any]
    history: list[dict[str, float]]


class Damaged(ValueError):
    """A checkpoint's files are not what was written."""


class Checkpoints:
    """The checkpoints of one training in `folder`: those of other settings or data lie beside them and are not used.

    `settings` says all that the result depends on, data and starting weights by digest; `label` names the training in
    messages.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], label: str) -> None:
        self.settings = json.loads(json.dumps(settings))
        self.parent, self.label = folder, label
        self.folder = folder / hashlib.sha256(_canonical(self.settings)).hexdigest()[:16]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """For the one process that writes here; the lock ends with the process, however it ends.

        Raises:
            RuntimeError: another process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.parent / "lock").open("w") as file:
            try:
                # a record lock: data workers would inherit one of flock and hold it for seconds after a kill
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RuntimeError(
                    f"another process trains into {self.parent}; end it, or wait until it is done"
                ) from None
            for left in self.folder.glob(".*"):  # what a killed process had begun to write or to delete
                shutil.rmtree(left)
            yield

    def save(self, progress: Progress) -> None:
        """Write one checkpoint; then drop all but the newest two."""
        state = {
            "format": FORMAT,
            "settings": self.settings,
            "step": progress.step,
            "scheduler": progress.scheduler,
            "history": progress.history,
        }
        with artifacts.atomic(self.folder / f"step-{progress.step:08d}") as part:
            part.mkdir()
            save_file({name: tensor.contiguous() for name, tensor in progress.tensors.items()}, part / TENSORS)
            state["tensors_sha256"] = _sha256(part / TENSORS)
            state["sha256"] = hashlib.sha256(_canonical(state)).hexdigest()
            (part / STATE).write_bytes(_canonical(state) + b"\n")
            for file in (part / TENSORS, part / STATE):
                _to_disk(file)
        for old in self._newest_first()[KEPT:]:
            aside = old.with_name(f".{old.name}")
            os.replace(old, aside)  # a half-deleted folder would look like a damaged checkpoint
            shutil.rmtree(aside)

    def newest(self) -> int:
        """The step of the newest sound checkpoint, 0 if there is none; says which are damaged, and deletes them."""
        self._tell_of_others()
        for folder in self._newest_first():
            try:
                return _read(folder).step
            except Damaged as error:
                _say(f"{self.label}: the checkpoint {folder} is damaged ({error}); going back to the one before it")
                shutil.rmtree(folder)
        return 0

    def load(self, step: int) -> Progress:
        """The checkpoint after `step` steps.

        Raises:
            Damaged: it is absent or not what was written.
        """
        return _read(self.folder / f"step-{step:08d}")

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)

    def _tell_of_others(self) -> None:
        for state in sorted(self.parent.glob(f"*/step-*/{STATE}")):
            if state.parent.parent == self.folder:
                continue
            try:
                theirs = json.loads(state.read_text(encoding="utf-8"))["settings"]
            except (ValueError, KeyError, TypeError):
                continue  # damaged as well; only this training's own matter
            names = theirs.keys() | self.settings.keys()
            differ = sorted(name for name in names if theirs.get(name) != self.settings.get(name))
            _say(f"{self.label}: {state.parent} was made with another {', '.join(differ)} and is not used")


def _read(folder: Path) -> Progress:
    try:
        state = json.loads((folder / STATE).read_bytes())
        found = _sha256(folder / TENSORS)
    except (OSError, ValueError) as error:
        raise Damaged(f"unreadable: {error}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise Damaged(f"{STATE} is not of format {FORMAT}")
    said = state.pop("sha256", None)
    if said != hashlib.sha256(_canonical(state)).hexdigest():
        raise Damaged(f"{STATE} does not have the SHA-256 that it states")
    if state["tensors_sha256"] != found:
        raise Damaged(f"{TENSORS} does not have the SHA-256 that {STATE} states")
    return Progress(state["step"], load_file(folder / TENSORS), state["scheduler"], state["history"])


def state_tensors(
    named: Iterable[tuple[str, nn.Parameter]], optimiser: torch.optim.Optimizer
) -> Iterator[tuple[str, Tensor]]:
    """The named parameters as `model/<name>` and their optimiser state as `<moment>/<name>`, whole and on the CPU, one
    after the other. Where they are shared out over ranks, every rank must ask for all."""
    for name, parameter in named:
        yield f"{MODEL}/{name}", whole(parameter.detach()).cpu()
        for moment, value in optimiser.state.get(parameter, {}).items():
            yield f"{moment}/{name}", whole(value.detach()).cpu()


def put_back(
    tensors: dict[str, Tensor], named: Iterable[tuple[str, nn.Parameter]], optimiser: torch.optim.Optimizer
) -> None:
    """What `state_tensors` took, into the same parameters and a new optimiser, on as many ranks or on others."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        by_name.setdefault(name, {})[part] = tensor
    for name, parameter in named:
        parts = by_name[name]
        with torch.no_grad():
            parameter.copy_(laid_out(parts.pop(MODEL), parameter))
        if parts:
            # a fused optimiser keeps its count of steps where the parameter lies
            optimiser.state[parameter] = {moment: laid_out(value, parameter) for moment, value in parts.items()}


def digest(parts: Iterable[bytes | str | Tensor]) -> str:
    """SHA-256 over all parts and their lengths, in order."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            data = memoryview(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        else:
            data = memoryview(part.encode() if isinstance(part, str) else part)
        total.update(data.nbytes.to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _to_disk(file: Path) -> None:
    """Past the system's cache, so that a crash of the machine cannot leave a name without its content."""
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
