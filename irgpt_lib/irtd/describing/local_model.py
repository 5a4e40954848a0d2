"""A vision-language model on this machine: any of transformers' image-text-to-text models, from a folder or the hub."""

import hashlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from PIL import Image  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from irgpt_lib.irtd.describing.describer import Asked, Failure, Reply, Request  # noqa: E402
from irgpt_lib.irtd.record import RecordError, open_image  # noqa: E402

NAME_DIGITS = 12
Conversation = list[dict[str, object]]


@dataclass(frozen=True)
class LocalModel:
    """A checkpoint that writes greedily, `batch_size` requests at a time.

    `weights` is a local folder or a hub id; remote code is never run, so the architecture must be one of transformers'
    own. `device` is torch's, for example `cuda`; empty means the GPU where there is one. Weights are loaded when the
    first request comes that the journal does not answer. Greedy replies to one request can differ between batch sizes
    and devices by rounding; the journal keeps the first.
    """

    weights: str
    max_tokens: int = 512
    batch_size: int = 4
    device: str = ""

    @cached_property
    def model(self) -> str:
        """The folder's name and a hash of its files, or the hub id and its commit: what can change a reply.

        Raises:
            OSError: there is neither such a folder nor such a checkpoint.
        """
        folder = Path(self.weights)
        if folder.is_dir():
            return f"{folder.resolve().name}@{folder_hash(folder)[:NAME_DIGITS]}"
        try:
            config = AutoConfig.from_pretrained(self.weights, trust_remote_code=False)
        except OSError as error:
            raise OSError(f"{self.weights}: neither a folder nor a checkpoint that the hub gives: {error}") from error
        return f"{self.weights}@{(config._commit_hash or 'unknown')[:NAME_DIGITS]}"

    @property
    def decoding(self) -> Mapping[str, float]:
        return {"max_tokens": self.max_tokens, "temperature": 0.0}

    @cached_property
    def processor(self) -> ProcessorMixin:
        processor = AutoProcessor.from_pretrained(self.weights, trust_remote_code=False)
        # a reply begins where its prompt ends, so prompts of a batch must end together
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
        return processor

    @cached_property
    def network(self) -> PreTrainedModel:
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        network = AutoModelForImageTextToText.from_pretrained(self.weights, dtype="auto", trust_remote_code=False)
        return network.to(device).eval()

    def answer(self, asked: Iterator[Asked]) -> Iterator[list[Reply | Failure]]:
        """One reply or failure for each of `asked`, a batch at a time."""
        while batch := list(itertools.islice(asked, self.batch_size)):
            sound, failures = self.readable(batch)
            # A processor takes images for all prompts of a batch or for none.
            with_image = [one for one in sound if one[0].request.image is not None]
            without = [one for one in sound if one[0].request.image is None]
            replies = [reply for part in (with_image, without) if part for reply in self.write(part)]
            yield [*failures, *replies]

    def readable(self, batch: Sequence[Asked]) -> tuple[list[tuple[Asked, Image.Image | None]], list[Failure]]:
        """The requests of a batch with their decoded images (RGB, `None` for text alone), and those that cannot be put
        to the model: `control token` where a prompt holds one, such as `<image>`, for which the model would look for a
        second image, or an image's own reason."""
        sound: list[tuple[Asked, Image.Image | None]] = []
        failures = []
        for one in batch:
            request = one.request
            try:
                if held := [token for token in self.control_tokens if token in request.prompt + request.system]:
                    raise RecordError("control token", f"{held[0]} in the prompt")
                image = None if request.image is None else open_image(request.image, request.name).convert("RGB")
                sound.append((one, image))
            except RecordError as error:
                failures.append(Failure(request.name, one.key, error.reason, error.detail))
        return sound, failures

    def write(self, batch: Sequence[tuple[Asked, Image.Image | None]]) -> list[Reply | Failure]:
        """The replies to one batch, all with an image or all without."""
        started = time.monotonic()
        inputs = self.processor.apply_chat_template(
            [conversation(one.request, image) for one, image in batch],
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self.network.device, self.network.dtype)
        with torch.inference_mode():
            generated = self.network.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        written = generated[:, inputs["input_ids"].shape[1] :]
        prompts = inputs["attention_mask"].sum(dim=1).tolist()
        seconds = (time.monotonic() - started) / len(batch)
        return [
            self.read(one, ids, prompt_tokens, seconds)
            for (one, _), ids, prompt_tokens in zip(batch, written, prompts, strict=True)
        ]

    def read(self, asked: Asked, ids: torch.Tensor, prompt_tokens: int, seconds: float) -> Reply | Failure:
        """What the generated token ids say."""
        name = asked.request.name
        ended = torch.isin(ids, torch.tensor(self.end_tokens, device=ids.device)).nonzero()
        count = int(ended[0]) + 1 if len(ended) else len(ids)
        text = self.processor.tokenizer.decode(ids[:count], skip_special_tokens=True).strip()
        if not text:
            return Failure(name, asked.key, "empty reply", f"{count} tokens without text")
        return Reply(
            name=name,
            key=asked.key,
            text=text,
            model=self.model,
            finish="stop" if len(ended) else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=count,
            seconds=seconds,
        )

    @cached_property
    def control_tokens(self) -> list[str]:
        """The tokens that only the chat template may write."""
        added = self.processor.tokenizer.added_tokens_decoder.values()
        return sorted({token.content for token in added if token.special})

    @cached_property
    def end_tokens(self) -> list[int]:
        """The token ids that end a reply: most chat models have several."""
        stated = self.network.generation_config.eos_token_id
        if stated is None:
            stated = self.processor.tokenizer.eos_token_id
        return stated if isinstance(stated, list) else [stated]

    def cure(self, failure: Failure) -> str:
        return f"Look whether {self.weights} is a chat model for images and text, and whether max_tokens is enough."


def conversation(request: Request, image: Image.Image | None) -> Conversation:
    """The request as transformers' chat templates take it."""
    turns: Conversation = []
    if request.system:
        turns.append({"role": "system", "content": [{"type": "text", "text": request.system}]})
    parts: list[dict[str, object]] = [] if image is None else [{"type": "image", "image": image}]
    return [*turns, {"role": "user", "content": [*parts, {"type": "text", "text": request.prompt}]}]


def folder_hash(folder: Path) -> str:
    """SHA-256 over names and contents of the files in the folder itself, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            with open(file, "rb") as stream:
                digest.update(f"{file.name}\n{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
