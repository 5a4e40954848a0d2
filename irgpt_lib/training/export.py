"""A trained run as others take it up: an adapter that peft loads on the untouched base, and the merged model.

The adapter that a run keeps (`stages.save_run`) holds stage 2 only and counts on stage 1's weights beside it. The
exported one holds the vision encoder of stage 1 too, in full, as the projector already is: base and adapter together
are the whole model.
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

from irgpt_lib import artifacts
from irgpt_lib.models.families import InternVL
from irgpt_lib.models.vlm import VisionLanguageModel, save_base
from irgpt_lib.training.stages import ADAPTER_FOLDER, STAGE1_FILE, load_adapter, load_stage1

CARD = "README.md"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
VISION = "vision_tower"
# peft wraps the model twice, and names its tensors so
WRAPPED = "base_model.model."
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Those that the Hub knows by name and that this study's parts have; all others are `other` with a name.
LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc-by-nc-sa-4.0", "llama2")
PAPER = "IRGPT (ICCV 2025, section 4)"


@dataclass(frozen=True)
class Facts:
    """What the card states.

    `base` is a hub id or says in words where the base comes from. `account` is the dataset's account
    (`artifacts.ACCOUNT`): `samples`, `simulated`, `authentic`, `sources`. `settings` are rows of `parameter` and
    `value` (`params.Loaded.rows`). `metrics` are measured values by name; `cost` is `cost.cost_line`. `licence` is that
    of the weights, which base and data decide and not this code: an id of the Hub such as `apache-2.0`, or any name.
    """

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


def export_adapter(run: Path, target: Path, facts: Facts) -> None:
    """Write the run in the folder `run` (`stages.save_run`) as one adapter with its card to `target`, whole or not at
    all. `PeftModel.from_pretrained(base, target)` loads it on the base that the study started from.

    Raises:
        FileNotFoundError: the run lacks a file; names it and the stage that makes it.
        KeyError: stage 1's file holds no vision encoder.
    """
    adapter = run / ADAPTER_FOLDER
    for file in (adapter / ADAPTER_CONFIG, adapter / ADAPTER_WEIGHTS, run / STAGE1_FILE):
        if not file.is_file():
            raise FileNotFoundError(f"no {file}; `dvc repro train` makes it")
    config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config["modules_to_save"] = [*config["modules_to_save"], VISION]
    config["base_model_name_or_path"] = facts.base if HUB_ID.fullmatch(facts.base) else None
    tensors = load_file(adapter / ADAPTER_WEIGHTS) | _vision(run / STAGE1_FILE)
    with artifacts.atomic(target) as folder:
        folder.mkdir()
        save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(config, indent=2, sort_keys=True)
        (folder / ADAPTER_CONFIG).write_text(f"{text}\n", encoding="utf-8")
        (folder / CARD).write_text(model_card(facts, merged=False), encoding="utf-8")


def _vision(file: Path) -> dict[str, Tensor]:
    """Stage 1's vision encoder under the names that an adapter gives it."""
    found = {f"{WRAPPED}{name}": tensor for name, tensor in load_file(file).items() if f".{VISION}." in name}
    if not found:
        raise KeyError(f"{file} holds no `{VISION}`: another family's run, or not one of stage 1")
    return found


def write_merged(vlm: InternVL, run: Path, target: Path, facts: Facts) -> InternVL:
    """Write base and run as one model in transformers' standard files, with its card, to `target`, whole or not at all;
    `models.vlm.load` and `load_base` read it. `vlm` is the base and is changed.

    Returns:
        The merged model.

    Raises:
        KeyError, RuntimeError: the run does not fit this base, see `stages.load_stage1`.
    """
    load_stage1(vlm, run)
    merged = load_adapter(vlm, run)
    with artifacts.atomic(target) as folder:
        save_base(VisionLanguageModel(merged.model, merged.tokenizer), "", folder)
        (folder / CARD).write_text(model_card(facts, merged=True), encoding="utf-8")
    return merged


def model_card(facts: Facts, *, merged: bool) -> str:
    """The card as Markdown with the Hub's YAML before it."""
    what = "The whole model, adapter merged." if merged else "A peft adapter: LoRA, projector and vision encoder."
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
        f"## Loading\n\n```python\n{MERGED_USE if merged else ADAPTER_USE}```",
        f"## Licence\n\n{facts.licence}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


ADAPTER_USE = """from peft import PeftModel
from transformers import AutoTokenizer, InternVLForConditionalGeneration

base = "..."  # the folder or hub id of the base, untouched
model = InternVLForConditionalGeneration.from_pretrained(base)
model = PeftModel.from_pretrained(model, "...")  # this folder
model = model.merge_and_unload()  # optional: no adapter's cost at inference
tokenizer = AutoTokenizer.from_pretrained(base)
"""
MERGED_USE = """from transformers import AutoTokenizer, InternVLForConditionalGeneration

folder = "..."  # this folder
model = InternVLForConditionalGeneration.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
"""


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
        one = f"Stage 1, {facts.stage1_steps:,} steps: vision encoder and projector through the frozen language model."
    return f"{one} Stage 2, {facts.stage2_steps:,} steps: projector and LoRA on the language model."


def _settings(rows: Sequence[Mapping[str, Any]]) -> str:
    table = pd.DataFrame(list(rows), columns=["parameter", "value"]).astype(str)
    return table.to_markdown(index=False, disable_numparse=True)


def _results(metrics: Mapping[str, float]) -> str:
    if not metrics:
        return "None were given for this run."
    return pd.DataFrame({"metric": list(metrics), "value": list(metrics.values())}).to_markdown(index=False)
