"""Any of transformers' image-text-to-text models, from a folder or the hub; remote code is never run."""

import io
from pathlib import Path

from PIL import Image
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from irgpt_lib.evaluation.answerers.generated import Generated, journal_of, one_limit
from irgpt_lib.irtd.describing.local_model import LocalModel
from irgpt_lib.irtd.sources import MalformedFile


def seen_length(prompt: str, image: bytes) -> tuple[int, ...]:
    """Pixels, then characters: what the number of tokens grows with, for every family of models."""
    with Image.open(io.BytesIO(image)) as opened:
        return (opened.width * opened.height, len(prompt))


def transformers_model(
    weights: str, journals: Path, *, max_tokens: int, batch_size: int, device: str = ""
) -> Generated:
    """An answerer: a chat checkpoint in one of transformers' own architectures.

    Its chat template and its image processor are its own. `device` is torch's; empty means the GPU where there is one.

    Raises:
        MalformedFile: transformers cannot load it as such a model; names the other ways to ask it.
    """
    local = LocalModel(weights, max_tokens=max_tokens, batch_size=batch_size, device=device)
    try:
        config = AutoConfig.from_pretrained(weights, trust_remote_code=False)
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise ValueError(f"its model_type {config.model_type!r} is none of transformers' image-text-to-text models")
        _ = local.processor
    except (OSError, ValueError) as error:
        reason, *_ = str(error).split("\n")
        raise MalformedFile(
            f"{weights}: {reason} Remote code is never run; put such a model behind a server, or "
            "run it elsewhere and bring the file of its answers"
        ) from error
    journal = journal_of(journals, local.model)
    return Generated(local.model, lambda _: local, one_limit(max_tokens), journal, seen_length)
