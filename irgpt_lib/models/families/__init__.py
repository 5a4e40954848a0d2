"""The multimodal LLMs of Table 2, each family through the same door."""

import json
from pathlib import Path

import torch

from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers import PreTrainedConfig, PreTrainedTokenizerBase  # noqa: E402

from irgpt_lib.models.families.family import Family, ImagePolicy, UnfitCheckpoint, read_tokenizer, read_weights  # noqa: E402
from irgpt_lib.models.families.internvl import InternVL  # noqa: E402
from irgpt_lib.models.families.llava import Llava  # noqa: E402
from irgpt_lib.models.families.pandagpt import PandaGPT  # noqa: E402
from irgpt_lib.models.families.qwen2_vl import Qwen2VL  # noqa: E402
from irgpt_lib.models.vlm import BASE_NOTE, Shape  # noqa: E402

FAMILIES: dict[str, type[Family]] = {family.kind: family for family in (InternVL, Qwen2VL, Llava, PandaGPT)}
ORIGINAL_INTERNVL = "internvl_chat"


def build(kind: str, shape: Shape, tokenizer: PreTrainedTokenizerBase, seed: int, policy: ImagePolicy) -> Family:
    """A miniature of that family with random weights.

    Raises:
        UnfitCheckpoint: there is no such family.
    """
    return _family(kind).build(shape, tokenizer, seed, policy)


def load(kind: str, weights: str | Path, policy: ImagePolicy, *, dtype: torch.dtype = torch.float32) -> Family:
    """A model of that family from a local folder or a hub id, in transformers' native classes and from safetensors
    only. Remote code is never run.

    Raises:
        OSError: transformers finds no such folder or checkpoint, or no safetensors in it.
        UnfitCheckpoint: the checkpoint is of another family, its tensors are not those of the family's classes, or it
            has no tokenizer.
    """
    family = _family(kind)
    _require_kind(str(weights), family)
    model = read_weights(family.model_class, weights, dtype, exact=True)
    return family(model, read_tokenizer(weights), policy)


def base_weights(folder: Path) -> str:
    """What to `load` of the stage `base`: its own folder, or the checkpoint that it names.

    Raises:
        FileNotFoundError: the folder holds no base; names the stage that makes it.
    """
    note = folder / BASE_NOTE
    if not note.is_file():
        raise FileNotFoundError(f"no base model in {folder}; `dvc repro base` makes it")
    weights = json.loads(note.read_text(encoding="utf-8"))["weights"]
    return str(folder) if weights == "." else weights


def _family(kind: str) -> type[Family]:
    if kind not in FAMILIES:
        raise UnfitCheckpoint(f"model.kind is {kind!r}; there are {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def _require_kind(weights: str, family: type[Family]) -> None:
    found = PreTrainedConfig.get_config_dict(weights)[0].get("model_type")
    expected = family.model_class.config_class.model_type
    if found == expected:
        return
    cure = f"there are {', '.join(FAMILIES)}"
    if found == ORIGINAL_INTERNVL:
        cure = "it is in InternVL's original layout; `irgpt models convert-internvl2` rewrites it"
    elif known := [kind for kind, one in FAMILIES.items() if one.model_class.config_class.model_type == found]:
        cure = f"set model.kind to {known[0]} in params.yaml"
    raise UnfitCheckpoint(f"{weights} is a checkpoint of type {found!r}, not of {family.kind} ({expected!r}): {cure}")
