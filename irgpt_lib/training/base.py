"""Make the visible-light base model of the miniature: the study's stand-in for InternVL2-8B.

From scratch, end to end, a model of this size stays at chance on every task. What works is to train its parts on the
simulated truth first and to join them then, in four phases: dense targets for the vision encoder, symbolic scenes for
the language model, a fit of the projected image tokens to those symbols, joint training on images and text.
It sees visible renders only, most of them as gray with random tone, so that it has to read shape.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from irgpt_lib import params
from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.irtd.record import Sample
from irgpt_lib.irtd.simulated import describe, world
from irgpt_lib.irtd.simulated.sprites import CATEGORIES
from irgpt_lib.models.tokenizer import build_tokenizer
from irgpt_lib.models.vlm import Shape, VisionLanguageModel, build_miniature, image_features, parameters_of
from irgpt_lib.tasks import TASKS
from irgpt_lib.training.loss import token_losses
from irgpt_lib.training.oracle import Dense, DenseHead, OracleProjector, dense_targets, oracle_tokens

CAPTION = "caption"
# Nouns and phrases of the real sources and of rule-based captions: in the vocabulary, though never shown to the base.
REAL_NOUNS = (
    *("other vehicle", "bus", "motor", "train", "cow", "solar cell"),
    *("country", "indoor", "mountain", "old building", "urban", "water", "building"),
)
RULE_PHRASES = (
    *(
        "The image contains ",
        " and ",
        " people",
        " cars",
        " bicycles",
        " dogs",
        " other vehicles",
        " scene.",
        "A ",
        "An ",
    ),
    *(" in the picture", " located at the ", "left", "center", "right", " of the image", " buses", " trucks"),
    *(
        "A solar cell, ",
        "monocrystalline",
        "polycrystalline",
        ", with a defect probability of 0.",
        "The picture shows ",
    ),
)
# How often each text is drawn; grounded and many-worded answers need more steps than one-token ones.
LANGUAGE_MIX = {
    **dict.fromkeys(TASKS, 1.0),
    "security": 2.0,
    "relationship": 3.0,
    "grounding": 2.0,
    "location": 2.0,
}
JOINT_MIX = {**LANGUAGE_MIX, "relationship": 1.0, "recognition": 2.0, "reid": 3.0, "scene": 0.5}
CAPTION_SHARE = 3.0
KEPT_IN_COLOUR = 0.35


@dataclass(frozen=True)
class Corpus:
    """Simulated scenes with visible images, and which of them can carry which text."""

    samples: list[Sample]
    visible: UInt8[np.ndarray, "n h w 3"]
    dense: Dense
    able: dict[str, np.ndarray]


def study_tokenizer(steps: int) -> PreTrainedTokenizerFast:
    """The tokenizer of the miniature: every phrase of the tasks and the captions, every noun of every source."""
    phrases = [p for task in TASKS.values() for p in task.phrases]
    phrases += [f"{'An' if s[0] in 'aeiou' else 'A'} {s} with " for s in world.SCENES]
    nouns = [*CATEGORIES, *world.SCENES, *REAL_NOUNS]
    return build_tokenizer([*phrases, *describe.phrases(), *RULE_PHRASES], nouns, steps)


def new_model(shape: Shape, seed: int) -> VisionLanguageModel:
    """The untrained miniature with its tokenizer."""
    return build_miniature(shape, study_tokenizer(shape.coordinate_steps), seed)


def make_corpus(count: int, *, seed: int, shape: Shape, mix: dict[str, float]) -> Corpus:
    """`count` scenes; only the visible render of each is kept."""
    samples: list[Sample] = []
    visible = []
    for truths, renders in world.generate(count, seed=seed, size=shape.image_px, mix=mix):
        samples += truths
        visible.append(renders.visible)
    able = {CAPTION: np.arange(len(samples))}
    rng = np.random.default_rng(seed)
    for name, task in TASKS.items():
        carries = [task.ask(s, rng, CATEGORIES, world.SCENES) is not None for s in samples]
        able[name] = np.flatnonzero(carries)
    return Corpus(samples, np.concatenate(visible), dense_targets(samples, shape.grid), able)


def draw_texts(
    corpus: Corpus, mix: dict[str, float], count: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[str], list[str]]:
    """Indices of `count` samples, with a question or the caption prompt, and an answer, for each."""
    kinds = [*mix, CAPTION]
    share = np.array([*mix.values(), CAPTION_SHARE])
    index, questions, answers = [], [], []
    for kind in rng.choice(kinds, size=count, p=share / share.sum()):
        i = int(rng.choice(corpus.able[kind]))
        asked = None if kind == CAPTION else TASKS[kind].ask(corpus.samples[i], rng, CATEGORIES, world.SCENES)
        index.append(i)
        questions.append(asked.text if asked else CAPTION_PROMPT)
        answers.append(asked.answer if asked else describe.describe(corpus.samples[i]))
    return np.array(index), questions, answers


def augment(images: UInt8[np.ndarray, "b h w 3"], generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
    """Pixel values in -1..1, most of them turned gray with random channel weights, polarity, tone, contrast, blur and
    noise; the share `KEPT_IN_COLOUR` stays as it is."""
    colour = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    b = len(colour)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(b, *(shape or (1, 1, 1)), generator=generator)

    weights = -torch.log(uniform(3, 1, 1) + 1e-4)
    gray = (colour * weights / weights.sum(1, keepdim=True)).sum(1, keepdim=True)
    low, high = gray.amin((2, 3), keepdim=True), gray.amax((2, 3), keepdim=True)
    gray = (gray - low) / (high - low + 1e-3)
    gray = torch.where(uniform() < 0.35, 1 - gray, gray)
    knots = uniform(7)
    position = gray.clamp(0, 1) * 5.999
    left = position.long().clamp(0, 5)
    at = [knots.gather(1, (left + k).flatten(1)).view_as(gray) for k in (0, 1)]
    curve = at[0] + (at[1] - at[0]) * (position - left)
    gamma = gray.clamp(1e-3, 1) ** torch.exp((uniform() - 0.5) * 1.8)
    gray = torch.where(uniform() < 0.2, curve, gamma)
    gray = gray * (0.4 + 0.6 * uniform())
    gray = 2 * (gray + uniform() * (1 - gray.amax((2, 3), keepdim=True))) - 1
    once = F.avg_pool2d(F.pad(gray, (1, 1, 1, 1), mode="replicate"), 3, 1)
    twice = F.avg_pool2d(F.pad(once, (1, 1, 1, 1), mode="replicate"), 3, 1)
    choice = uniform()
    gray = torch.where(choice < 0.25, once, torch.where(choice < 0.4, twice, gray))
    noise = torch.randn(gray.shape, generator=generator)
    gray = (gray + 0.12 * uniform() * noise).clamp(-1, 1).expand(-1, 3, -1, -1)
    return torch.where(uniform() < KEPT_IN_COLOUR, colour, gray).contiguous()


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cosine(step: int, steps: int, *, warm_up: int, floor: float) -> float:
    """The share of the peak learning rate: linear warm-up, then a cosine down to `floor`."""
    wave = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / warm_up) * (floor + (1 - floor) * wave)


def optimise(
    groups: Sequence[tuple[Sequence[nn.Parameter], float]],
    steps: int,
    loss_of_step: Callable[[int], Tensor],
    *,
    label: str,
    every: int = 25,
) -> Iterator[dict[str, float | str]]:
    """AdamW with gradient clipping at 1; yields the mean loss of every `every` steps, under the phase's name.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    optimiser = torch.optim.AdamW(
        [{"params": list(p), "lr": lr, "peak": lr} for p, lr in groups], weight_decay=0.01, betas=(0.9, 0.98)
    )
    everything = [p for parameters, _ in groups for p in parameters]
    recent: list[float] = []
    for step in tqdm(range(steps), desc=label, mininterval=2.0):
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * cosine(step, steps, warm_up=50, floor=0.04)
        loss = loss_of_step(step)
        loss.backward()
        nn.utils.clip_grad_norm_(everything, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        recent.append(loss.item())
        if not math.isfinite(recent[-1]):
            raise FloatingPointError(f"{label}: the loss is {recent[-1]} at step {step}; lower its learning rate")
        if len(recent) == every or step == steps - 1:
            yield {"phase": label, "step": step + 1, "loss": float(np.mean(recent))}
            recent = []


def in_image_order(hidden: Float[Tensor, "b p c"]) -> Float[Tensor, "b g g c"]:
    """The vision encoder's patches in rows and columns, without the class token."""
    grid = math.isqrt(hidden.shape[1] - 1)
    return hidden[:, 1:].reshape(len(hidden), grid, grid, -1)


def patches_and_tokens(
    vlm: VisionLanguageModel, pixels: Float[Tensor, "b 3 h w"]
) -> tuple[Float[Tensor, "b g g c"], Float[Tensor, "b t width"]]:
    """The vision encoder's patches and the projected image tokens of one forward pass."""
    seen: list[Tensor] = []
    tower = vlm.model.model.vision_tower
    hook = tower.register_forward_hook(lambda module, inputs, output: seen.append(output.last_hidden_state))
    try:
        tokens = image_features(vlm.model, pixels)
    finally:
        hook.remove()
    return in_image_order(seen[0]), tokens


def text_losses(
    vlm: VisionLanguageModel,
    features: Float[Tensor, "b t width"],
    questions: Sequence[str],
    answers: Sequence[str],
    smoothing: float,
) -> Float[Tensor, " b"]:
    """Loss of each answer when the language model reads `features` where the image tokens stand."""
    batch = vlm.encode(questions, answers).to(features.device)
    embeddings = vlm.model.get_input_embeddings()(batch.input_ids)
    here = (batch.input_ids == vlm.image_id)[..., None]
    embeddings = embeddings.masked_scatter(here, features.to(embeddings.dtype))
    hidden = vlm.model.model.language_model(inputs_embeds=embeddings, attention_mask=batch.attention_mask)
    logits = vlm.model.lm_head(hidden.last_hidden_state)
    ordered = None if vlm.ordered is None else vlm.ordered.to(logits.device)
    return token_losses(logits, batch.labels, ordered=ordered, smoothing=smoothing)


@dataclass(frozen=True)
class Recipe:
    """Steps, batch size and peak learning rates of the four phases, and the coordinate smoothing in grid steps."""

    dense_steps: int
    language_steps: int
    fit_steps: int
    joint_steps: int
    batch_size: int
    dense_lr: float
    language_lr: float
    fit_lr: float
    joint_lr: float
    vision_lr_share: float
    fit_weight: float
    dense_weight: float
    smoothing: float


@dataclass(frozen=True)
class Plan:
    """All that a base is made of: its shape, its scenes and its recipe. Equal plans give equal bases."""

    shape: Shape
    scenes: int
    mix: dict[str, float]
    recipe: Recipe
    seed: int


def plan_of(config: params.Base) -> Plan:
    """The plan that the section `base` of params.yaml states."""
    recipe = Recipe(**config.recipe.model_dump())
    return Plan(Shape(**config.shape.model_dump()), config.scenes, config.mix, recipe, config.seed)


Row = dict[str, float | str]
State = dict[str, np.ndarray]


def train_base(plan: Plan, *, processes: int) -> tuple[VisionLanguageModel, list[Row]]:
    """The trained model, and one loss row every few steps.

    The first two phases do not meet, so with two `processes` they run side by side, each on one thread.
    """
    parts = (vision_part, language_part)
    if processes > 1:
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            (vision, vision_rows), (language, language_rows) = pool.map(run_part, parts, [plan] * 2)
    else:
        threads = torch.get_num_threads()
        (vision, vision_rows), (language, language_rows) = (run_part(part, plan) for part in parts)
        torch.set_num_threads(threads)
    vlm = new_model(plan.shape, plan.seed)
    corpus = make_corpus(plan.scenes, seed=plan.seed + 1, shape=plan.shape, mix=plan.mix)
    head = DenseHead(plan.shape.vision_width)
    oracle = OracleProjector(plan.shape.language_width)
    load_state(vlm.model.model.vision_tower, vision, "tower.")
    load_state(head, vision, "head.")
    load_state(vlm.model.model.language_model, language, "language.")
    load_state(oracle, language, "oracle.")
    rows = [*vision_rows, *language_rows, *join_parts(vlm, head, oracle, corpus, plan)]
    return vlm, rows


def run_part(
    part: Callable[[VisionLanguageModel, Corpus, Plan], tuple[State, list[Row]]], plan: Plan
) -> tuple[State, list[Row]]:
    """One of the independent phases in a process of its own; it draws the same scenes and the same start."""
    torch.set_num_threads(1)
    vlm = new_model(plan.shape, plan.seed)
    return part(vlm, make_corpus(plan.scenes, seed=plan.seed + 1, shape=plan.shape, mix=plan.mix), plan)


def state_of(module: nn.Module, prefix: str) -> State:
    return {prefix + name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


def load_state(module: nn.Module, state: State, prefix: str) -> None:
    own = {name.removeprefix(prefix): torch.from_numpy(v) for name, v in state.items() if name.startswith(prefix)}
    module.load_state_dict(own)


def vision_part(vlm: VisionLanguageModel, corpus: Corpus, plan: Plan) -> tuple[State, list[Row]]:
    """The vision encoder learns to name what each patch shows."""
    rng, generator = np.random.default_rng(plan.seed), torch.Generator().manual_seed(plan.seed)
    torch.manual_seed(plan.seed)
    place, recipe = device(), plan.recipe
    tower = vlm.model.model.vision_tower.to(place).train()
    head = DenseHead(plan.shape.vision_width).to(place)

    def step(number: int) -> Tensor:
        index = rng.integers(len(corpus.samples), size=recipe.batch_size)
        pixels = augment(corpus.visible[index], generator).to(place)
        hidden = tower(pixel_values=pixels).last_hidden_state
        return head.loss(in_image_order(hidden), corpus.dense[torch.from_numpy(index)].to(place))

    everything = [*tower.parameters(), *head.parameters()]
    rows = list(optimise([(everything, recipe.dense_lr)], recipe.dense_steps, step, label="dense vision"))
    return {**state_of(tower, "tower."), **state_of(head, "head.")}, rows


def language_part(vlm: VisionLanguageModel, corpus: Corpus, plan: Plan) -> tuple[State, list[Row]]:
    """The language model learns the tasks on the truth itself, mapped to image tokens."""
    rng, generator = np.random.default_rng(plan.seed), torch.Generator().manual_seed(plan.seed)
    torch.manual_seed(plan.seed)
    place, recipe = device(), plan.recipe
    vlm.model.to(place)
    language = vlm.model.model.language_model.train()
    oracle = OracleProjector(plan.shape.language_width).to(place)

    def step(number: int) -> Tensor:
        index, questions, answers = draw_texts(corpus, LANGUAGE_MIX, recipe.batch_size, rng)
        tokens = oracle_tokens(corpus.dense[torch.from_numpy(index)])
        noisy = tokens + 0.08 * torch.randn(tokens.shape, generator=generator)
        return text_losses(vlm, oracle(noisy.to(place)), questions, answers, recipe.smoothing).mean()

    everything = [*language.parameters(), *oracle.parameters()]
    rows = list(optimise([(everything, recipe.language_lr)], recipe.language_steps, step, label="language"))
    return {**state_of(language, "language."), **state_of(oracle, "oracle.")}, rows


def join_parts(
    vlm: VisionLanguageModel, head: DenseHead, oracle: OracleProjector, corpus: Corpus, plan: Plan
) -> Iterator[Row]:
    """Fit the projected image tokens to the symbols, then train everything on images and text; yields loss rows."""
    rng, generator = np.random.default_rng(plan.seed + 1), torch.Generator().manual_seed(plan.seed + 1)
    place, recipe = device(), plan.recipe
    model = vlm.model.to(place)
    head, oracle = head.to(place), oracle.to(place)
    vision, projector = parameters_of(model, "vision"), parameters_of(model, "projector")
    language, supervising = parameters_of(model, "language"), list(head.parameters())
    model.train()

    def distance(tokens: Float[Tensor, "b t width"], index: np.ndarray) -> Tensor:
        with torch.no_grad():
            target = oracle(oracle_tokens(corpus.dense[torch.from_numpy(index)]).to(place))
        return (tokens - target).square().mean() / target.var()

    def fit_step(number: int) -> Tensor:
        index = rng.integers(len(corpus.samples), size=recipe.batch_size)
        return distance(image_features(model, augment(corpus.visible[index], generator).to(place)), index)

    def joint_step(number: int) -> Tensor:
        index, questions, answers = draw_texts(corpus, JOINT_MIX, recipe.batch_size, rng)
        patches, tokens = patches_and_tokens(vlm, augment(corpus.visible[index], generator).to(place))
        loss = text_losses(vlm, tokens, questions, answers, recipe.smoothing).mean()
        loss = loss + recipe.fit_weight * distance(tokens, index)
        return loss + recipe.dense_weight * head.loss(patches, corpus.dense[torch.from_numpy(index)].to(place))

    groups = [(vision, 0.4 * recipe.fit_lr), (projector, recipe.fit_lr)]
    yield from optimise(groups, recipe.fit_steps, fit_step, label="fit")
    groups = [
        (vision, recipe.vision_lr_share * recipe.joint_lr),
        ([*projector, *language, *supervising], recipe.joint_lr),
    ]
    yield from optimise(groups, recipe.joint_steps, joint_step, label="joint")
    model.eval()


def first_scores(vlm: VisionLanguageModel, config: params.Base, *, questions: int, batch_size: int = 100) -> list[Row]:
    """What the base can do on scenes that it never saw: one row a task and rendering (visible and each infrared band),
    with the mean `score` over at most `questions` questions. Nothing is trained on infrared yet."""
    samples: list[Sample] = []
    renders = []
    for truths, images in world.generate(
        config.evaluation_scenes, seed=config.seed + 2, size=vlm.image_px, mix=config.mix
    ):
        samples += truths
        renders.append(images)
    views = {name: np.concatenate([getattr(r, name) for r in renders]) for name in ("visible", "nir", "swir", "tir")}
    rows: list[Row] = []
    for task in TASKS.values():
        rng = np.random.default_rng(config.seed)
        asked = ((i, task.ask(s, rng, CATEGORIES, world.SCENES)) for i, s in enumerate(samples))
        kept = [(i, question) for i, question in asked if question is not None][:questions]
        longest = max(len(vlm.text_ids(q.answer)) for _, q in kept) + 4
        for name, images in views.items():
            outputs = []
            for start in range(0, len(kept), batch_size):
                part = kept[start : start + batch_size]
                pixels = images[[i for i, _ in part]]
                outputs += vlm.answer([q.text for _, q in part], pixels, max_new_tokens=longest)
            scores = [task.score(task.read(o), q.truth) for o, (_, q) in zip(outputs, kept, strict=True)]
            rows.append(
                {
                    "task": task.name,
                    "rendering": name,
                    "score": float(np.mean(scores)),
                    "questions": len(kept),
                }
            )
    return rows
