"""The study's own models: batches of like length, a KV cache, and every image encoded once."""

import hashlib
import itertools
import json
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from irgpt_lib.evaluation.answerers.generated import Generated, journal_of
from irgpt_lib.evaluation.answering import SPARE_TOKENS
from irgpt_lib.irtd.describing.describer import Asked, Failure, Reply
from irgpt_lib.irtd.record import content_hash
from irgpt_lib.models.families.family import GREEDY, Family
from irgpt_lib.models.families.pixels import size_of

NAME_DIGITS = 12
FEATURE_BYTES = 256 * 2**20
PIXELS = "pixel_values"
# What a folder's files say of where they come from, and no answer depends on.
ORIGIN = dict.fromkeys(("_name_or_path", "transformers_version", "_from_model_config"), "")


def model_hash(vlm: Family) -> str:
    """SHA-256 over the weights, the vocabulary and all that surrounds a question, 64 hexadecimal digits.

    The release of transformers enters too, for another one may write other answers.
    """
    digest = hashlib.sha256(version("transformers").encode())
    for name, tensor in sorted(vlm.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    configs = [one.to_dict() | ORIGIN for one in (vlm.model.config, vlm.model.generation_config)]
    # black and white as the model sees them say mean and deviation, wherever those are written
    ends = vlm.normalised(np.array([[[0, 255]]], np.uint8)).tolist()
    around = [*configs, vlm.kind, repr(vlm.policy), vlm.template(), vlm.tokenizer.get_vocab(), vlm.end_id, ends]
    digest.update(json.dumps(around, sort_keys=True, default=str).encode())
    return digest.hexdigest()


class Encoded(NamedTuple):
    """An image as the language model gets it: its projected tokens, and the model's other arguments about it, such as
    the grid of Qwen2-VL, from which rotary positions follow."""

    tokens: Float[Tensor, "tokens width"]
    others: dict[str, Tensor]


class EncodedImages:
    """Encoded images by the hash of their file; those longest unused go once there are `most_bytes`."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._kept: OrderedDict[str, Encoded] = OrderedDict()

    def get(self, key: str) -> Encoded | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: str, image: Encoded) -> None:
        self._kept[key] = image
        self.bytes += image.tokens.nbytes
        while self.bytes > self.most_bytes:
            self.bytes -= self._kept.popitem(last=False)[1].tokens.nbytes


class StudyModel:
    """A model of the study that answers in batches of `batch_size`; `name` is its label and a hash of its weights."""

    def __init__(self, vlm: Family, label: str, *, batch_size: int, feature_bytes: int = FEATURE_BYTES) -> None:
        self.vlm = vlm
        self.name = f"{label}@{model_hash(vlm)[:NAME_DIGITS]}"
        self.batch_size = batch_size
        self.images = EncodedImages(feature_bytes)
        self.counts: dict[str, int] = {}
        ends = vlm.model.generation_config.eos_token_id
        self.ends = {vlm.end_id, *np.atleast_1d(vlm.end_id if ends is None else ends).tolist()}

    def limited(self, max_tokens: int) -> "LimitedStudyModel":
        """The backend that writes at most so many tokens; all of them share weights and encoded images."""
        return LimitedStudyModel(self, max_tokens)

    def length(self, prompt: str, image: bytes) -> tuple[int, ...]:
        """Tokens of the prompt, those of the image included."""
        key = content_hash(image)
        if key not in self.counts:
            self.counts[key] = self.vlm.image_tokens(self.vlm.read(image))
        return (len(self.vlm.prompt_ids(prompt, self.counts[key])),)

    @torch.inference_mode()
    def encoded(self, images: Mapping[str, bytes]) -> dict[str, Encoded]:
        """The images, named by their hash, as the language model gets them; only those not kept are encoded."""
        found = {key: self.images.get(key) for key in images}
        if new := [key for key, image in found.items() if image is None]:
            tiles = [self.vlm.read(images[key]) for key in new]
            each = [self.vlm.image_inputs([one]) for one in tiles]
            tokens = self.projected(joined(each)).split([self.vlm.image_tokens(one) for one in tiles])
            for key, inputs, own in zip(new, each, tokens, strict=True):
                # a copy: a view would keep the whole batch alive
                found[key] = Encoded(own.clone(), {name: value for name, value in inputs.items() if name != PIXELS})
                self.images.put(key, found[key])
        return found

    def projected(self, inputs: dict[str, Tensor]) -> Float[Tensor, "tokens width"]:
        """The tokens of all images, one under another, as the model's own first step computes them."""
        weight = next(self.vlm.model.parameters())
        placed = {name: value.to(weight.device) for name, value in inputs.items()}
        placed[PIXELS] = placed[PIXELS].to(weight.dtype)
        return torch.cat(list(self.vlm.model.get_image_features(**placed).pooler_output))

    @torch.inference_mode()
    def write(self, prompts: Sequence[str], images: Sequence[bytes], max_tokens: int) -> list[tuple[str, int, bool]]:
        """Greedy answers: text in the study's grammar, number of generated tokens with the end of the answer, and
        whether it ended.

        The image tokens are put among the prompt's embeddings here instead of in the model's first step, which is the
        same computation with the encoder taken out.
        """
        model = self.vlm.model.eval()
        device = next(model.parameters()).device
        keys = [content_hash(image) for image in images]
        encoded = self.encoded(dict(zip(keys, images, strict=True)))
        shown = [encoded[key] for key in keys]
        batch = self.vlm.encode_prompts(prompts, [len(image.tokens) for image in shown]).to(device)
        embeddings = model.get_input_embeddings()(batch.input_ids)
        places = batch.input_ids == self.vlm.image_id
        embeddings[places] = torch.cat([image.tokens for image in shown]).to(embeddings.dtype)
        others = {name: value.to(device) for name, value in joined([image.others for image in shown]).items()}
        generated = model.generate(
            **self.vlm.text_inputs(batch),
            **others,
            inputs_embeds=embeddings,
            **GREEDY,
            max_new_tokens=max_tokens,
            pad_token_id=self.vlm.pad_id,
        )
        replies = generated[:, batch.input_ids.shape[1] :].tolist()
        texts = (
            self.vlm.in_study_grammar(self.vlm.decode(ids), size_of(image))
            for ids, image in zip(replies, images, strict=True)
        )
        return [(text, *self.ending(ids)) for text, ids in zip(texts, replies, strict=True)]

    def ending(self, ids: list[int]) -> tuple[int, bool]:
        """How many tokens an answer takes, and whether it came to its end."""
        end = next((place for place, token in enumerate(ids, start=1) if token in self.ends), None)
        return (len(ids), False) if end is None else (end, True)


def joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The image arguments of several images as those of one batch."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class LimitedStudyModel:
    """A study's model with a greatest number of tokens: a backend of `irtd.describing`."""

    whole: StudyModel
    max_tokens: int

    @property
    def model(self) -> str:
        return self.whole.name

    @property
    def decoding(self) -> Mapping[str, float]:
        return {"max_tokens": self.max_tokens, "temperature": 0.0}

    def answer(self, asked: Iterator[Asked]) -> Iterator[list[Reply | Failure]]:
        """One reply or failure for each of `asked`, a batch at a time."""
        while batch := list(itertools.islice(asked, self.whole.batch_size)):
            started = time.monotonic()
            prompts, images = [one.request.prompt for one in batch], [one.request.image or b"" for one in batch]
            written = self.whole.write(prompts, images, self.max_tokens)
            seconds = (time.monotonic() - started) / len(batch)
            yield [
                Reply(
                    name=one.request.name,
                    key=one.key,
                    text=text,
                    model=self.model,
                    finish="stop" if ended else "length",
                    prompt_tokens=self.whole.length(one.request.prompt, image)[0],
                    completion_tokens=count,
                    seconds=seconds,
                )
                for one, image, (text, count, ended) in zip(batch, images, written, strict=True)
            ]

    def cure(self, failure: Failure) -> str:
        return "`dvc repro train` makes the model again."


def answer_limits(vlm: Family, questions: pd.DataFrame) -> dict[str, int]:
    """For each task the tokens of its longest true answer, and a few more."""
    own = questions.groupby("task", sort=False)["answer"]
    return {str(task): max(len(vlm.text_ids(a)) for a in answers) + SPARE_TOKENS for task, answers in own}


def study_model(vlm: Family, label: str, questions: pd.DataFrame, journals: Path, *, batch_size: int) -> Generated:
    """An answerer: a model of the study, which may write as many tokens as the `questions` of a task need."""
    whole = StudyModel(vlm, label, batch_size=batch_size)
    journal = journal_of(journals, whole.name)
    return Generated(whole.name, whole.limited, answer_limits(vlm, questions), journal, whole.length)
