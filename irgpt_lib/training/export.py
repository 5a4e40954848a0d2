"""A trained run as others take it up: an adapter that peft loads on the untouched base, and the merged model.

The adapter that a run keeps (`stages.save_run`) holds stage 2 only and counts on stage 1's weights beside it. The
exported one holds the vision encoder of stage 1 too, in full, as the projector already is: base and adapter together
are the whole model. Of PandaGPT, whose encoder stays frozen, the projector is all that stage 1 trained.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from torch import Tensor

from irgpt_lib import artifacts, params
from irgpt_lib.models import families
from irgpt_lib.models.families import Family
from irgpt_lib.tasks import TASKS
from irgpt_lib.training.cost import cost_line
from irgpt_lib.training.stages import ADAPTER_FOLDER, STAGE1_FILE, load_adapter, load_stage1
from irgpt_lib.training.starting import starting_model

CARD = "README.md"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RUN_NAME = re.compile(r"(.+)-(\d+)")
STAGE1_PARTS = {"vision": "vision encoder", "projector": "projector"}
PLACES = ("model.weights", "model.encoder")
METRICS = {"accuracy": "%", "mae": "mean absolute error"}
# peft wraps the model twice, and names its tensors so
WRAPPED = "base_model.model."
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Those that the Hub knows by name and that this study's parts have; all others are `other` with a name.
LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc-by-nc-sa-4.0", "llama2", "unknown")
UNKNOWN = LICENCES[-1]
PAPER = "IRGPT (ICCV 2025, section 4)"


class Unexportable(ValueError):
    """There is no such run, or it cannot be given away in the form that was asked for; the message says what can."""


@dataclass(frozen=True)
class Facts:
    """What the card states.

    `kind` is the family (`families.FAMILIES`). `base` is a hub id or says in words where the base comes from. `account`
    is the dataset's account (`artifacts.ACCOUNT`): `samples`, `simulated`, `authentic`, `sources`. `settings` are rows
    of `parameter` and `value` (`params.Loaded.rows`). `metrics` are measured values by name; `cost` is
    `cost.cost_line`. `licence` is that of the weights, which base and data decide and not this code: an id of the Hub
    such as `apache-2.0`, or any name.
    """

    kind: str
    base: str
    variant: str
    seed: int
    profile: str
    account: Mapping[str, Any]
    settings: Sequence[Mapping[str, Any]]
    licence: str
    stage1_steps: int
    stage2_steps: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: str = ""

    @property
    def run(self) -> str:
        return artifacts.run_name(self.variant, self.seed)


def export_run(name: str, target: Path, *, merged: bool, licence: str = UNKNOWN, profile: str = "") -> Facts:
    """Write the study's run `name`, such as `cl-0`, to the new folder `target`: its adapter, or base and run `merged`
    into one model. Without `profile` it is the one that the run was trained under, as its record of costs says.

    Raises:
        Unexportable: there is no such run; it does not fit its base; the base of an adapter lies nowhere as files; or
            `target` exists.
        ParamsError: params.yaml does not have the run's variant or profile.
        UnfitCheckpoint: the base is not of the family that params.yaml names.
        FileNotFoundError: the base, a file of the run or the dataset's account is missing.
    """
    run, variant, seed = _run_of_study(name)
    if target.exists():
        raise Unexportable(f"{target} exists; name a new folder, or delete it")
    loaded = params.load("model", "train", profile=profile or _profile_of(name), variant=variant)
    if not merged and (loaded.model.encoder or (loaded.model.shape and not loaded.model.weights)):
        raise Unexportable(f"{name} started from no checkpoint, so its adapter has no base; --merged exports it whole")
    facts = facts_of(loaded, seed, licence=licence)
    if not merged:
        export_adapter(run, target, facts)
        return facts
    try:
        write_merged(starting_model(loaded.model, artifacts.path(artifacts.BASE)), run, target, facts)
    except (KeyError, RuntimeError) as error:
        reason = str(error.args[0]).splitlines()[0]
        raise Unexportable(f"{name} does not fit what params.yaml says it started from: {reason}") from error
    return facts


def _run_of_study(name: str) -> tuple[Path, str, int]:
    """Folder, variant and seed of a run that was trained."""
    folder = artifacts.path("train")
    trained = sorted(file.parent.name for file in folder.glob(f"*/{STAGE1_FILE}"))
    found = RUN_NAME.fullmatch(name)
    if found is None or name not in trained:
        there = f"there are {', '.join(trained)}" if trained else "there is none; `dvc repro train` makes the study's"
        raise Unexportable(f"{folder}: no run {name!r}; {there}")
    return folder / name, found[1], int(found[2])


def _profile_of(name: str) -> str:
    """The profile that a run was trained under; empty where nothing tells."""
    file = artifacts.path(f"costs/05_train-{name}.json")
    return _read(file)["parameters"]["profile"] if file.is_file() else ""


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def facts_of(loaded: params.Loaded, seed: int, *, licence: str) -> Facts:
    """What the artifacts tell of a run. `loaded` holds the sections `model` and `train` of its profile and variant.

    Raises:
        FileNotFoundError: the base, the losses or the dataset's account is missing.
    """
    name = artifacts.run_name(loaded.variant, seed)
    account = artifacts.path(artifacts.ACCOUNT)
    if not account.is_file():
        raise FileNotFoundError(f"no {account}, which says what the run learnt from; `dvc repro dataset` makes it")
    steps = pd.read_csv(artifacts.path(f"train/{name}/history.csv"))["stage"].value_counts()
    return Facts(
        kind=loaded.model.kind,
        base=_base_of(loaded.model),
        variant=loaded.variant,
        seed=seed,
        profile=loaded.profile,
        account=_read(account),
        settings=_settings_of(loaded),
        licence=licence,
        stage1_steps=int(steps.get("stage 1", 0)),
        stage2_steps=int(steps.get("stage 2", 0)),
        metrics=_metrics_of(name),
        cost=_cost_of(name),
    )


def _settings_of(loaded: params.Loaded) -> list[dict[str, Any]]:
    """The rows of the params, without places on this machine."""
    return [row | {"value": _place(row["value"])} if row["parameter"] in PLACES else row for row in loaded.rows()]


def _base_of(config: params.Model) -> str:
    """What a run of these params started from: a hub id, or words that name no place on this machine."""
    if config.encoder:
        parts = " and ".join(f"`{_place(part)}`" for part in (config.encoder, config.weights))
        return f"{parts}, joined by a projection drawn from seed {config.seed}"
    if config.shape is not None and not config.weights:
        return f"A miniature of the family {config.kind} with random weights, drawn from seed {config.seed}"
    base = artifacts.path(artifacts.BASE)
    weights = config.weights or families.base_weights(base)
    if weights == str(base):
        return "The study's own miniature, `artifacts/base`, trained on visible renders"
    place = _place(weights)
    return place if HUB_ID.fullmatch(place) else f"The checkpoint `{place}`"


def _place(weights: str) -> str:
    """A hub id as it is, of a local folder its name."""
    return Path(weights).name if Path(weights).is_dir() else weights


def _metrics_of(name: str) -> dict[str, float]:
    """The scores after stage 2 by task and unit; none where the run was not evaluated."""
    file = artifacts.path(f"evaluate/{name}/metrics.json")
    scores = _read(file)["fine_tuned"] if file.is_file() else {}
    return {f"{task} ({METRICS[TASKS[task].metric]})": value for task, value in scores.items()}


def _cost_of(name: str) -> str:
    """A sentence a stage that was trained and measured."""
    files = {stage: artifacts.path(f"costs/train-{name}-stage{stage}.json") for stage in (1, 2)}
    records = {stage: _read(file) for stage, file in files.items() if file.is_file()}
    return " ".join(f"Stage {stage}, {cost_line(r)}." for stage, r in records.items() if r["steps"])


def export_adapter(run: Path, target: Path, facts: Facts) -> None:
    """Write the run in the folder `run` (`stages.save_run`) as one adapter with its card to `target`, whole or not at
    all. `PeftModel.from_pretrained(base, target)` loads it on the base that the study started from.

    Raises:
        FileNotFoundError: the run lacks a file; names it and the stage that makes it.
        Unexportable: stage 1's file holds no vision encoder of the family.
    """
    _require_files(run)
    adapter = run / ADAPTER_FOLDER
    config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    modules, vision = _vision(run / STAGE1_FILE, families.FAMILIES[facts.kind])
    config["modules_to_save"] = [*config["modules_to_save"], *modules]
    config["base_model_name_or_path"] = facts.base if HUB_ID.fullmatch(facts.base) else None
    tensors = load_file(adapter / ADAPTER_WEIGHTS) | vision
    with artifacts.atomic(target) as folder:
        folder.mkdir()
        save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(config, indent=2, sort_keys=True)
        (folder / ADAPTER_CONFIG).write_text(f"{text}\n", encoding="utf-8")
        (folder / CARD).write_text(model_card(facts, merged=False), encoding="utf-8")


def _require_files(run: Path) -> None:
    adapter = run / ADAPTER_FOLDER
    for file in (adapter / ADAPTER_CONFIG, adapter / ADAPTER_WEIGHTS, run / STAGE1_FILE):
        if not file.is_file():
            raise FileNotFoundError(f"no {file}; `dvc repro train` makes it")


def _vision(file: Path, family: type[Family]) -> tuple[list[str], dict[str, Tensor]]:
    """The modules of the vision encoder that stage 1 trained, and their tensors under the names that an adapter gives
    them. peft takes no list of blocks, but each block."""
    if "vision" not in family.stage1_parts:
        return [], {}
    places = re.compile("(" + "|".join(rf"{re.escape(part)}(?:\.\d+)?" for part in family.parts["vision"]) + r")\..+")
    found = {name: (place[1], tensor) for name, tensor in load_file(file).items() if (place := places.fullmatch(name))}
    if not found:
        parts = ", ".join(family.parts["vision"])
        raise Unexportable(f"{file} holds no `{parts}`: a run of another family than {family.kind}, or not of stage 1")
    modules = dict.fromkeys(module.removeprefix("model.") for module, _ in found.values())
    return list(modules), {f"{WRAPPED}{name}": tensor for name, (_, tensor) in found.items()}


def write_merged(vlm: Family, run: Path, target: Path, facts: Facts) -> Family:
    """Write base and run as one model in transformers' standard files, with its card, to `target`, whole or not at all;
    `families.load` reads it. `vlm` is the base and is changed.

    Returns:
        The merged model.

    Raises:
        FileNotFoundError: the run lacks a file; names it and the stage that makes it.
        KeyError, RuntimeError: the run does not fit this base, see `stages.load_stage1`.
    """
    _require_files(run)
    load_stage1(vlm, run)
    merged = load_adapter(vlm, run)
    with artifacts.atomic(target) as folder:
        merged.save(folder)
        (folder / CARD).write_text(model_card(facts, merged=True), encoding="utf-8")
    return merged


def model_card(facts: Facts, *, merged: bool) -> str:
    """The card as Markdown with the Hub's YAML before it."""
    family = families.FAMILIES[facts.kind]
    encoder = "LoRA, projector and vision encoder" if "vision" in family.stage1_parts else "LoRA and projector"
    what = "The whole model, adapter merged." if merged else f"A peft adapter: {encoder}."
    parts = [
        f"---\n{_yaml(_front_matter(facts, merged))}---",
        f"# IRGPT re-implementation: {facts.run}",
        f"{what} An infrared vision-language model trained by the curriculum of {PAPER}; an independent "
        "re-implementation, not the authors' weights.",
        f"## Base\n\n{facts.base}",
        f"## Data\n\n{_data(facts.account)}",
        f"## Training\n\nVariant `{facts.variant}`, seed {facts.seed}, profile `{facts.profile}`. {_stages(facts)}",
        facts.cost,
        _settings(facts.settings),
        f"## Results\n\n{_results(facts.metrics)}",
        f"## Loading\n\n```python\n{_use(family, merged)}```",
        f"## Licence\n\n{NO_LICENCE if facts.licence == UNKNOWN else facts.licence}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


NO_LICENCE = "Unknown: none was named when this was exported. The licences of base and data decide."
ADAPTER_USE = """from peft import PeftModel
{imports}

base = "..."  # the folder or hub id of the base, untouched
model = {model_class}.from_pretrained(base)
model = PeftModel.from_pretrained(model, "...")  # this folder
model = model.merge_and_unload()  # optional: no adapter's cost at inference
tokenizer = AutoTokenizer.from_pretrained(base)
"""
MERGED_USE = """{imports}

folder = "..."  # this folder
model = {model_class}.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
"""


def _use(family: type[Family], merged: bool) -> str:
    """The lines that load the model; PandaGPT's classes are the study's, all others transformers' own."""
    name, module = family.model_class.__name__, family.model_class.__module__
    own = f"\n\nfrom {module} import {name}"
    imports = "from transformers import AutoTokenizer" + (f", {name}" if module.startswith("transformers.") else own)
    return (MERGED_USE if merged else ADAPTER_USE).format(imports=imports, model_class=name)


def _front_matter(facts: Facts, merged: bool) -> dict[str, Any]:
    known = facts.licence.lower() in LICENCES
    matter = {
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "image-text-to-text",
        "language": ["en"],
        "license": facts.licence.lower() if known else "other",
        "tags": ["infrared", "thermal", "curriculum-learning", *([] if merged else ["lora"])],
    }
    if not known:
        matter["license_name"] = re.sub(r"[^a-z0-9.]+", "-", facts.licence.lower()).strip("-")
    if HUB_ID.fullmatch(facts.base):
        matter |= {"base_model": facts.base, "base_model_relation": "finetune" if merged else "adapter"}
    return matter


def _yaml(content: Mapping[str, Any]) -> str:
    yaml, text = YAML(), StringIO()
    yaml.default_flow_style = False
    yaml.dump(dict(content), text)
    return text.getvalue()


def _data(account: Mapping[str, Any]) -> str:
    samples, simulated, authentic = (account[key] for key in ("samples", "simulated", "authentic"))
    if authentic == 0:
        kind = "all simulated: no infrared camera took any of them, and scores say nothing of real infrared"
    elif simulated == 0:
        kind = "all authentic: taken by infrared cameras"
    else:
        kind = f"{authentic:,} authentic, taken by infrared cameras, and {simulated:,} simulated"
    sources = ", ".join(f"{name} ({count:,})" for name, count in account["sources"].items())
    return f"{samples:,} infrared samples, {kind}. Sources: {sources}."


def _stages(facts: Facts) -> str:
    one = "Stage 1 was left out: the vision encoder is the base's."
    if facts.stage1_steps:
        parts = " and ".join(STAGE1_PARTS[part] for part in families.FAMILIES[facts.kind].stage1_parts)
        one = f"Stage 1, {facts.stage1_steps:,} steps: {parts} through the frozen language model."
    return f"{one} Stage 2, {facts.stage2_steps:,} steps: projector and LoRA on the language model."


def _settings(rows: Sequence[Mapping[str, Any]]) -> str:
    table = [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    return pd.DataFrame(table, columns=["parameter", "value"]).to_markdown(index=False, disable_numparse=True)


def _results(metrics: Mapping[str, float]) -> str:
    if not metrics:
        return "None were given for this run."
    return pd.DataFrame({"metric": list(metrics), "value": list(metrics.values())}).to_markdown(index=False)
