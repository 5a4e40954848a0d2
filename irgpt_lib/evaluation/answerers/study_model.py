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

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from irgpt_lib.evaluation.answerers.generated import Generated, journal_of
from irgpt_lib.evaluation.answering import SPARE_TOKENS
from irgpt_lib.irtd.describing.describer import Asked, Failure, Reply
from irgpt_lib.irtd.record import content_hash
from irgpt_lib.models.images import decode_image
from irgpt_lib.models.vlm import VisionLanguageModel, image_features

NAME_DIGITS = 12
FEATURE_BYTES = 256 * 2**20


def model_hash(vlm: VisionLanguageModel) -> str:
    """SHA-256 over the weights, the vocabulary and what surrounds a prompt, 64 hexadecimal digits.

    The release of transformers enters too, for another one may write other answers.
    """
    digest = hashlib.sha256(version("transformers").encode())
    for name, tensor in sorted(vlm.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    config = vlm.model.config.to_dict() | {"_name_or_path": "", "transformers_version": ""}
    around = [config, vlm.tokenizer.get_vocab(), vlm.before, vlm.after, vlm.end_id, vlm.mean.tolist(), vlm.std.tolist()]
    digest.update(json.dumps(around, sort_keys=True, default=str).encode())
    return digest.hexdigest()


class ImageTokens:
    """Projected image tokens by the hash of their image; those longest unused go once there are `most_bytes`."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._kept: OrderedDict[str, Float[Tensor, "tokens width"]] = OrderedDict()

    def get(self, key: str) -> Float[Tensor, "tokens width"] | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: str, tokens: Float[Tensor, "tokens width"]) -> None:
        self._kept[key] = tokens
        self.bytes += tokens.nbytes
        while self.bytes > self.most_bytes:
            self.bytes -= self._kept.popitem(last=False)[1].nbytes


class StudyModel:
    """A model of the study that answers in batches of `batch_size`; `name` is its label and a hash of its weights."""

    def __init__(
        self, vlm: VisionLanguageModel, label: str, *, batch_size: int, feature_bytes: int = FEATURE_BYTES
    ) -> None:
        self.vlm = vlm
        self.name = f"{label}@{model_hash(vlm)[:NAME_DIGITS]}"
        self.batch_size = batch_size
        self.tokens = ImageTokens(feature_bytes)

    def limited(self, max_tokens: int) -> "LimitedStudyModel":
        """The backend that writes at most so many tokens; all of them share weights and image tokens."""
        return LimitedStudyModel(self, max_tokens)

    def length(self, prompt: str, image: bytes) -> tuple[int, ...]:
        """Tokens of the prompt; every image has as many as any other."""
        return (len(self.vlm.prompt_ids(prompt)),)

    def image_tokens(self, images: Mapping[str, bytes]) -> dict[str, Float[Tensor, "tokens width"]]:
        """The projected tokens of encoded images, by their hash; only those not seen before are encoded."""
        found = {key: self.tokens.get(key) for key in images}
        if new := [key for key, tokens in found.items() if tokens is None]:
            weight = next(self.vlm.model.parameters())
            gray = np.stack([decode_image(images[key], self.vlm.image_px) for key in new])
            pixels = self.vlm.pixel_values(gray).to(weight.device, weight.dtype)
            for key, tokens in zip(new, image_features(self.vlm.model, pixels), strict=True):
                # a copy: a view would keep the whole batch alive
                found[key] = tokens.clone()
                self.tokens.put(key, found[key])
        return found

    @torch.inference_mode()
    def write(self, prompts: Sequence[str], images: Sequence[bytes], max_tokens: int) -> list[tuple[str, int, bool]]:
        """Greedy answers: text, number of generated tokens with the end of the answer, and whether it ended.

        The image tokens are put among the prompt's embeddings here instead of in the model's first step, which is the
        same computation with the encoder taken out.
        """
        model = self.vlm.model.eval()
        batch = self.vlm.encode_prompts(prompts).to(next(model.parameters()).device)
        keys = [content_hash(image) for image in images]
        tokens = self.image_tokens(dict(zip(keys, images, strict=True)))
        embeddings = model.get_input_embeddings()(batch.input_ids)
        places = batch.input_ids == self.vlm.image_id
        embeddings[places] = torch.cat([tokens[key] for key in keys]).to(embeddings.dtype)
        generated = model.generate(
            inputs_embeds=embeddings,
            attention_mask=batch.attention_mask,
            max_new_tokens=max_tokens,
            do_sample=False,
        )
        texts = self.vlm.tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [(text, *self.ending(row)) for text, row in zip(texts, generated.tolist(), strict=True)]

    def ending(self, ids: list[int]) -> tuple[int, bool]:
        """How many tokens an answer takes, and whether it came to its end."""
        return (ids.index(self.vlm.end_id) + 1, True) if self.vlm.end_id in ids else (len(ids), False)


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
                    prompt_tokens=len(self.whole.vlm.prompt_ids(one.request.prompt)),
                    completion_tokens=count,
                    seconds=seconds,
                )
                for one, (text, count, ended) in zip(batch, written, strict=True)
            ]

    def cure(self, failure: Failure) -> str:
        return "`dvc repro train` makes the model again."


def answer_limits(vlm: VisionLanguageModel, questions: pd.DataFrame) -> dict[str, int]:
    """For each task the tokens of its longest true answer, and a few more."""
    own = questions.groupby("task", sort=False)["answer"]
    return {str(task): max(len(vlm.text_ids(a)) for a in answers) + SPARE_TOKENS for task, answers in own}


def study_model(
    vlm: VisionLanguageModel, label: str, questions: pd.DataFrame, journals: Path, *, batch_size: int
) -> Generated:
    """An answerer: a model of the study, which may write as many tokens as the `questions` of a task need."""
    whole = StudyModel(vlm, label, batch_size=batch_size)
    journal = journal_of(journals, whole.name)
    return Generated(whole.name, whole.limited, answer_limits(vlm, questions), journal, whole.length)
