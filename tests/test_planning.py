"""The capacity planner: what it counts against what torch's allocator hands out, and against sums by hand."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from miniature import ONE_TILE, SHAPE, captioned
from PIL import Image
from torch.profiler import ProfilerActivity, profile
from typer.testing import CliRunner

from irgpt_lib import params
from irgpt_lib.cli.train import app
from irgpt_lib.curriculum import schedule
from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.irtd.record import png_bytes
from irgpt_lib.models import families
from irgpt_lib.models.families.family import ImagePolicy
from irgpt_lib.models.families.internvl import InternVL
from irgpt_lib.models.vlm import Shape
from irgpt_lib.training import planning, stages
from irgpt_lib.training.base import new_model
from irgpt_lib.training.dry_run import (
    COPIES,
    EXCHANGE,
    FROZEN,
    GRADIENTS,
    OPTIMISER,
    STATES,
    TRAINED,
    ModelShape,
    Piece,
    Setting,
    count_step,
    image_of,
    prepare,
)
from irgpt_lib.training.loss import answer_losses
from irgpt_lib.training.planning import GATHERED, SHARDED, UNREDUCED, Machine, Speed, Unplannable

WIDE = replace(SHAPE, vision_width=64, vision_layers=2, language_width=128, language_layers=2)
DEEP = replace(SHAPE, patch_px=8, vision_width=96, vision_layers=2, language_width=64, language_layers=3)
LORA = params.Lora(rank=8, alpha=16, dropout=0.0)
PIECE = Piece(4, 1, 3, 12, 4)
POLICY = ImagePolicy(max_tiles=1, min_pixels=56 * 56, max_pixels=28 * 28 * 1280)


def shape_of(model, name="miniature"):
    kind = {"internvl": "internvl", "qwen2_vl": "qwen2_vl", "llava": "llava"}[model.config.model_type]
    return ModelShape(name, families.FAMILIES[kind], model.config, "a test", None)


@cache
def miniature(shape=WIDE):
    vlm = new_model(shape, 0)
    return replace(shape_of(vlm.model), ordered=vlm.ordered)


def known(named="", profile="paper", variant="", **model):
    """The shape under a profile and variant, its section `model` changed."""
    loaded = params.load("base", "model", profile=profile, variant=variant)
    return planning.shape_of(loaded.base, loaded.model.model_copy(update=model), named)


def published(name, **smaller):
    """A published shape with fewer layers."""
    shape = known(name)
    for part, count in smaller.items():
        config = getattr(shape.config, part)
        setattr(config, "depth" if hasattr(config, "depth") else "num_hidden_layers", count)
    return shape


def train_config(batch, precision="fp32", dropout=0.0):
    train = params.load("train", profile="smoke").train
    one = {"batch_size": batch, "tiers": 1, "epochs": 1, "warm_up": 0.0}
    two = {"batch_size": batch, "epochs": 1, "warm_up": 0.0, "lora": LORA.model_copy(update={"dropout": dropout})}
    parts = {"stage1": train.stage1.model_copy(update=one), "stage2": train.stage2.model_copy(update=two)}
    return train.model_copy(update=parts | {"precision": precision})


def allocated(work):
    """The most bytes that torch's CPU allocator had handed out at a time during `work`, above what it had before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert events
    return int(np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).max())


def weights_bytes(model):
    return sum(p.numel() * p.element_size() for p in model.parameters())


def trained_for_real(stage, shape, config, micro, lean):
    """Peak of two real steps of a stage, and the piece that describes their texts."""
    made, samples = new_model(shape, 0), captioned(2 * getattr(config, f"stage{stage}").batch_size)
    vlm = InternVL(made.model, made.tokenizer, ONE_TILE)
    before = weights_bytes(vlm.model)
    answers = [len(vlm.text_ids(text)) + 1 for text in samples["caption"]]
    prompt, mean = len(vlm.prompt_ids(CAPTION_PROMPT, 0)), round(np.mean(answers))

    def work():
        if stage == 1:
            scores = {"rank": np.arange(len(samples)), "alpha": np.linspace(-1, 1, len(samples))}
            ranked = pd.DataFrame({"sample_id": samples["sample_id"].to_numpy()} | scores)
            order = schedule.from_params(ranked, config.stage1, params.load("difficulty").difficulty, seed=0)
            return stages.stage1(vlm, samples, order, config, seed=0, micro=micro, activation_checkpointing=lean)
        texts = ([CAPTION_PROMPT] * len(samples), samples["caption"].tolist())
        images, options = samples["infrared"].tolist(), {"micro": micro, "activation_checkpointing": lean}
        return stages.stage2(vlm, images, *texts, config, seed=0, **options)

    return before + allocated(work), (prompt, mean, max(answers) - mean)


@pytest.mark.parametrize(
    ("stage", "shape", "batch", "precision", "dropout", "micro", "lean"),
    [
        (1, SHAPE, 4, "fp32", 0.0, 0, False),
        (1, WIDE, 16, "fp32", 0.0, 0, False),
        (1, DEEP, 8, "bf16", 0.0, 0, False),
        (1, DEEP, 16, "fp32", 0.0, 0, True),
        (2, WIDE, 4, "fp32", 0.0, 0, False),
        (2, DEEP, 16, "bf16", 0.0, 0, False),
        (2, WIDE, 8, "fp32", 0.1, 4, False),
    ],
)
def test_the_counted_peak_is_what_a_real_training_allocates(stage, shape, batch, precision, dropout, micro, lean):
    config = train_config(batch, precision, dropout)
    measured, texts = trained_for_real(stage, shape, config, micro, lean)
    size = micro or batch
    setting = Setting(pieces=batch // size, precision=precision, smoothing=config.smoothing, checkpointed=lean)
    counted = count_step(miniature(shape), stage, config.stage2.lora, Piece(size, 1, *texts), setting)
    assert counted.peak == pytest.approx(measured, rel=0.15)
    assert sum(counted.at_peak.values()) == counted.peak


@pytest.mark.parametrize("kind", ["qwen2_vl", "llava"])
def test_the_other_families_are_counted_as_they_allocate(kind):
    family = families.build(kind, WIDE, new_model(SHAPE, 0).tokenizer, 0, POLICY)
    image = family.read(png_bytes(np.asarray(Image.new("L", (640, 512), 90))))
    before = weights_bytes(family.model)
    family.begin_stage1()
    trained = [p for p in family.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, fused=True)
    answers = ["yes", "A picture of 3 cars"]
    rows = family.encode(["Is it?"] * 2, answers, [family.image_tokens(image)] * 2)

    def work():
        for _ in range(2):
            inputs = family.inputs(["Is it?"] * 2, answers, [image] * 2)
            labels = inputs.pop("labels")
            hidden = family.model.model(**inputs, use_cache=False).last_hidden_state
            answer_losses(hidden, family.model.get_output_embeddings(), labels).mean().backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    measured = before + allocated(work)
    answer = round(int((rows.labels >= 0).sum()) / 2)
    text = rows.input_ids.shape[1] - family.image_tokens(image)
    padding = text - round(float(rows.attention_mask.sum()) / 2 - family.image_tokens(image))
    shape = shape_of(family.model, kind)
    piece = Piece(2, 1, text - answer - padding, answer, padding)
    assert image_of(shape, piece)[0] == family.image_tokens(image)
    assert count_step(shape, 1, LORA, piece, Setting()).peak == pytest.approx(measured, rel=0.15)


# As the releases state them; the InternVL2 family by its model cards (2.2B, 8.1B, 25.5B).
@pytest.mark.parametrize(
    ("name", "billions", "vision_millions"),
    [
        ("InternVL2-2B", 2.206, 304.0),
        ("OpenGVLab/InternVL2_5-8B-MPO-hf", 8.075, 304.0),
        ("InternVL2-26B", 25.51, 5536.5),
        ("Qwen2-VL-7B", 8.291, 631.2),
        ("LLaVA-1.5-7B", 7.063, 303.5),
    ],
)
def test_the_published_shapes_have_the_published_numbers_of_parameters(name, billions, vision_millions):
    counted = planning.parameters_of(published(name), LORA)
    assert counted["all"] / 1e9 == pytest.approx(billions, abs=0.001 * billions)
    assert counted["vision"] / 1e6 == pytest.approx(vision_millions, abs=0.1)
    assert counted["vision"] + counted["projector"] + counted["language"] == counted["all"]


def test_lora_of_8b_is_rank_times_the_sides_of_its_matrices():
    sides = [4096 + 4096, 4096 + 1024, 4096 + 1024, 4096 + 4096, 4096 + 14336, 4096 + 14336, 14336 + 4096]
    counted = planning.parameters_of(published("InternVL2-8B"), params.Lora(rank=16, alpha=32, dropout=0.0))
    assert counted["LoRA"] == 32 * 16 * sum(sides)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_flops_of_stage_1_are_those_of_its_matrix_products(checkpointed):
    """Forward, gradients by inputs, and by weights only where these are trained; attention's backward pass is 2.5
    forward passes, and recomputation is one more of the layers."""
    layers, text, patches = 2, 456, 1025
    shape = published("InternVL2-8B", vision_config=layers, text_config=layers)
    setting = Setting(precision="bf16", checkpointed=checkpointed)
    counted = count_step(shape, 1, LORA, Piece(2, 1, 80, 120), setting).flops
    vision = 2 * patches * (4 * 1024**2 + 2 * 1024 * 4096)
    language = 2 * text * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    not_again = 2 * text * 4096 * 14336  # nothing needs the output of a layer's last product
    attention = {"vision": 4 * patches**2 * 1024, "language": 4 * text**2 * 4096}
    again = int(checkpointed)
    of_layers = (3 + again) * vision + (2 + again) * language - again * not_again
    of_layers += (3.5 + again) * sum(attention.values())
    stem = 2 * 1024 * 3 * 14**2 * 1024 * 2
    projector = 2 * 256 * (4096 * 4096 + 4096 * 4096) * 3
    head = 2 * 120 * 4096 * 92553 * 2
    assert counted == pytest.approx(layers * of_layers + stem + projector + head, rel=0.002)


def test_states_are_four_bytes_a_weight_and_twelve_a_trained_one():
    shape = miniature()
    for stage in (1, 2):
        model, _ = prepare(shape, stage, LORA)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        states = count_step(shape, stage, LORA, PIECE, Setting()).states
        steps = 4 * sum(p.requires_grad for p in model.parameters())  # the optimiser's counters
        expected = {FROZEN: 4 * frozen, TRAINED: 4 * trained, OPTIMISER: 8 * trained + steps, GRADIENTS: 4 * trained}
        assert states == expected


def test_checkpointing_takes_activations_and_gives_work():
    piece = replace(PIECE, samples=16)
    plain, lean = (count_step(miniature(DEEP), 1, LORA, piece, Setting(checkpointed=c)) for c in (False, True))
    assert lean.peak < 0.7 * plain.peak and lean.flops > 1.2 * plain.flops and lean.states == plain.states


def test_frozen_weights_in_bf16_take_half_and_leave_no_copies():
    shape = published("InternVL2-2B", vision_config=2, text_config=2)
    full, half = (count_step(shape, 1, LORA, PIECE, Setting(precision="bf16", held=held)) for held in ("fp32", "bf16"))
    assert half.states[FROZEN] == full.states[FROZEN] / 2 and half.states[TRAINED] == full.states[TRAINED]
    head_and_layers = full.states[FROZEN] - 4 * 92553 * 2048  # the embedding is looked up, not multiplied
    assert full.at_peak[COPIES] > 0.5 * head_and_layers
    assert half.at_peak[COPIES] <= 0.5 * half.states[TRAINED]


def test_several_ranks_hold_their_gradients_twice_for_the_exchange():
    # one layer, so that the exchange and not the activations make the peak
    shape = miniature(replace(SHAPE, vision_width=256, language_width=32))
    alone, many = (count_step(shape, 1, LORA, Piece(2, 1, 3, 3), Setting(ranks=ranks)) for ranks in (1, 2))
    assert EXCHANGE not in alone.at_peak and many.at_peak[EXCHANGE] == many.states[GRADIENTS]
    assert many.at_peak[GRADIENTS] == many.states[GRADIENTS]


def test_pieces_of_a_batch_need_the_memory_of_one():
    whole = count_step(miniature(WIDE), 1, LORA, replace(PIECE, samples=16), Setting())
    pieces = count_step(miniature(WIDE), 1, LORA, PIECE, Setting(pieces=4))
    assert pieces.peak < 0.6 * whole.peak and pieces.flops == pytest.approx(whole.flops, rel=0.001)


@pytest.fixture
def quick(monkeypatch):
    """Every layout is counted as the first one of the smallest model: what a plan makes of it does not depend on it."""
    counted = {stage: counted_once(stage) for stage in (1, 2)}
    monkeypatch.setattr(planning, "count_step", lambda shape, stage, *_: counted[stage])


@cache
def counted_once(stage):
    return count_step(miniature(SHAPE), stage, LORA, PIECE, Setting())


def plan(profile="smoke", gpus=1, speed=None, **options):
    machine = Machine(gpus, options.pop("memory", 80.0), options.pop("micro", None))
    return planning.plan(profile, machine, speed or Speed(), **options)


@pytest.mark.parametrize("name", ["ascending_stratified", "cumulative", "bidirectional"])
def test_steps_of_stage_1_are_those_of_the_order(name):
    config = train_config(16).stage1.model_copy(update={"schedule": name, "tiers": 7, "epochs": 2})
    scores = {"sample_id": [str(i) for i in range(333)], "rank": np.arange(333), "alpha": np.linspace(-1, 1, 333)}
    order = schedule.from_params(pd.DataFrame(scores), config, params.load("difficulty").difficulty, seed=0)
    assert planning.stage1_steps(333, config) == order["batch"].nunique()


def test_hours_follow_from_the_rate_or_from_flops(quick):
    train = params.load("train", profile="smoke").train
    made = plan(gpus=4, speed=Speed(rates=(10.0, 5.0)), samples=(3600, 1800))
    one, two = made.stages["stage 1"], made.stages["stage 2"]
    assert one.layouts["replicated"].hours == pytest.approx(train.stage1.epochs * 3600 / 40 / 3600)
    assert two.layouts["FSDP2"].hours == pytest.approx(train.stage2.epochs * 1800 / 20 / 3600)
    fast = plan(speed=Speed(tflops=2.0, mfu=0.25), samples=(3600, 1800)).stages["stage 1"].layouts["replicated"]
    assert fast.samples_per_second == pytest.approx(0.5 / fast.tflop_per_sample)
    assert plan(samples=(3600, 1800)).stages["stage 1"].layouts["replicated"].hours is None


def test_shards_are_a_share_of_all_states_and_the_rest_is_not(quick):
    shape = miniature(DEEP)
    model, _ = prepare(shape, 1, LORA)
    weights = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    train = train_config(8)
    load = planning.Load(1, 3, 12, 4, "a test")
    layouts = {}
    for gpus in (2, 8):
        stage = planning._Stage(shape, 1, train, load, Machine(gpus), Speed(), lambda _: None)
        layouts[gpus] = stage.plan(100, 10).layouts["FSDP2"].parts
    assert layouts[2][SHARDED] == (4 * weights + 12 * trained) // 2
    assert layouts[8][SHARDED] == (4 * weights + 12 * trained) // 8
    largest = sum(p.numel() for p in model.model.vision_tower.encoder.layer[0].parameters())
    every = sum(
        p.numel()
        for layers in (model.model.vision_tower.encoder.layer, model.model.language_model.layers)
        for p in layers.parameters()
    )
    assert layouts[2][GATHERED] == 4 * (weights - every + 2 * largest) == layouts[8][GATHERED]
    assert layouts[2][UNREDUCED] == 4 * 2 * largest
    assert not set(layouts[2]) & set(STATES)


def test_a_variant_is_planned_with_its_own_changes(quick):
    made = plan(variant="none", samples=(64, 64))
    assert (made.variant, list(made.stages)) == ("none", ["stage 2"])
    assert list(plan(samples=(64, 64)).stages) == ["stage 1", "stage 2"]


def test_what_is_not_given_comes_from_params_and_is_said(quick, monkeypatch):
    loaded = params.load("base", "dataset", "model", "train", profile="smoke")
    changes = {"micro": 4, "parallel": "shard", "activation_checkpointing": True}
    train = loaded.train.model_copy(update=changes)
    model = loaded.model.model_copy(update={"max_tiles": 12})
    sections = {"base": loaded.base, "dataset": loaded.dataset, "model": model, "train": train}
    monkeypatch.setattr(params, "load", lambda *_, **__: params.Loaded("smoke", "", sections))
    made, given = plan(gpus=2), plan(gpus=2, micro=8, tiles=3)
    assert made.stages["stage 1"].samples_at_a_time == 4 and given.stages["stage 1"].samples_at_a_time == 8
    assert (made.load.tiles, made.load.frame, given.load.tiles) == (1, (64, 64), 3)
    said = "\n".join(made.assumes)
    for words in ("dataset.simulated.scenes.pretrain", "64 x 64 pixels", "1 tile (model.max_tiles is 12)"):
        assert words in said
    assert "`FSDP2, checkpointed`" in said and "features_mb" in said
    assert "it becomes 3 tiles (as given)" in given.assumes
    assert "params.yaml trains in the layout `replicated, checkpointed`" in plan().assumes


def test_disk_holds_three_checkpoints_of_weight_and_moments_and_the_result(quick):
    made = plan(samples=(64, 64)).stages["stage 2"]
    assert made.checkpoint_bytes == 12 * made.trained
    assert made.disk_bytes == 3 * made.checkpoint_bytes + 4 * made.trained


def test_a_gpu_that_is_too_small_is_told(quick):
    column = plan(samples=(64, 64), memory=0.001).stages["stage 1"].layouts["replicated"]
    assert not column.fits and column.share == column.total / (0.001 * 2**30)


def test_a_local_folder_is_planned_from_its_config(tmp_path):
    new_model(SHAPE, 0).model.config.save_pretrained(tmp_path)
    local = known(str(tmp_path))
    assert known(weights=str(tmp_path)).source == local.source == str(tmp_path / "config.json")
    assert planning.parameters_of(local, LORA) == planning.parameters_of(miniature(SHAPE), LORA)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    assert "'bert' is of no family" in refused("--model", tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert f"{tmp_path / 'config.json'} cannot be read" in refused("--model", tmp_path)


def test_a_profile_is_planned_for_the_model_that_it_starts_from():
    """Against the model itself, which the plan does not build."""
    for variant in ("", "qwen2_vl"):
        shape, model = known(profile="smoke", variant=variant), params.load("model", variant=variant).model
        sizes = model.shape or params.load("base", profile="smoke").base.shape
        real = families.build(model.kind, Shape(**sizes.model_dump()), new_model(SHAPE, 0).tokenizer, 0, POLICY)
        counted = planning.parameters_of(shape, LORA)
        assert shape.family is type(real) and shape.ordered.tolist() == real.ordered.tolist()
        assert counted["all"] == sum(p.numel() for p in real.model.parameters())
        assert (shape.source == "base.shape of params.yaml") == (not variant)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "InternVL2-8B"),
        ({"weights": "OpenGVLab/InternVL2-26B"}, "InternVL2-26B"),
        ({"kind": "qwen2_vl", "weights": "Qwen/Qwen2-VL-7B-Instruct"}, "Qwen2-VL-7B"),
    ],
)
def test_weights_of_the_section_model_come_before_the_base(changes, name):
    assert known(**changes).name == name


def test_a_model_of_another_family_than_params_say_is_refused():
    for changed in ({"weights": "Qwen/Qwen2-VL-7B"}, {"kind": "llava"}):
        with pytest.raises(Unplannable, match="model.kind of params.yaml is (internvl|llava), but .* is "):
            known(**changed)


def test_a_pandagpt_is_planned_from_the_configs_of_both_folders(tmp_path, quick):
    made = families.build("pandagpt", WIDE, new_model(SHAPE, 0).tokenizer, 0, POLICY).model
    made.config.vision_config.save_pretrained(tmp_path / "clip")
    made.config.text_config.save_pretrained(tmp_path / "llm")
    places = {"encoder": str(tmp_path / "clip"), "weights": str(tmp_path / "llm")}
    shape = known(kind="pandagpt", **places)
    assert shape.name == "clip and llm"
    counted, stage = planning.parameters_of(shape, LORA), stage_of(shape, 1)
    assert counted["all"] == sum(p.numel() for p in made.parameters())
    assert stage.trained == counted["projector"] and stage.result_bytes == 4 * counted["projector"]
    with pytest.raises(Unplannable, match=r"model\.encoder is 'a/clip': a plan needs a local folder"):
        known(kind="pandagpt", encoder="a/clip", weights=places["weights"])
    (tmp_path / "llm" / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(Unplannable, match=r"model\.encoder or model\.weights: "):
        known(kind="pandagpt", **places)


def stage_of(shape, stage):
    load = planning.Load(1, 3, 12, 4, "a test")
    return planning._Stage(shape, stage, train_config(8), load, Machine(1), Speed(), lambda _: None).plan(100, 10)


@pytest.mark.parametrize(
    ("frame", "max_tiles", "tiles"), [((640, 512), 1, 1), ((640, 512), 12, 13), ((448, 448), 12, 1)]
)
def test_tiles_are_those_that_the_model_sees(frame, max_tiles, tiles):
    assert planning.tiles_of(published("InternVL2-8B"), max_tiles, frame) == tiles


@pytest.mark.parametrize(
    ("frame", "pixels", "tokens"), [((640, 512), (3136, 1003520), 414), ((640, 512), (3136, 50176), 56)]
)
def test_the_bounds_of_an_image_s_area_decide_its_tokens(frame, pixels, tokens):
    """644 x 504 and 224 x 196 pixels, a token for each 28 x 28."""
    piece = replace(PIECE, frame=frame, pixels=pixels)
    assert image_of(published("Qwen2-VL-7B"), piece)[0] == tokens


def call(*words):
    return CliRunner().invoke(app, ["plan", *map(str, words)])


def refused(*words):
    result = call("--profile", "paper", *words)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    return result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--profile", "papers"], "unknown profile 'papers'; params.yaml has smoke, tiny"),
        (["--variant", "cls"], "unknown variant 'cls'; params.yaml has none, anti_cl"),
        (["--gpus", 0], "0 GPUs: a plan needs at least one"),
        (["--gpu-memory", 0], "0.0 GiB a GPU"),
        (["--model", "InternVL2-9B"], "the shape of 'InternVL2-9B' is not known: name InternVL2-2B"),
        (
            ["--profile", "real"],
            "profile real: None samples of stage 1 and 900 of stage 2; say how",
        ),
        (["--rate", 3, "--tflops", 900, "--mfu", 0.4], "not both"),
        (["--tflops", 900], "the second in 0-1"),
        (["--rate", 0], "they must be above 0"),
        (["--rate", 1, "--rate", 1, "--rate", 1], "3 rates"),
        (["--model", "LLaVA-1.5-7B", "--tiles", 3], "3 tiles: LLaVA-1.5-7B (llava) reads an image as one"),
        (["--answer-tokens", 0], "too few"),
        (["--samples", 3], "3 samples in 10 tiers"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_a_cure(words, message):
    assert message in refused(*words)


def test_the_plan_is_a_table_and_json(quick):
    words = ["--profile", "smoke", "--gpus", 2, "--rate", 7]
    text, record = call(*words), json.loads(call(*words, "--json").stdout)
    assert text.exit_code == 0 and "stage 2, FSDP2, checkpointed: counting one step" in text.stderr
    for line in (
        "Profile smoke: miniature of internvl (base.shape of params.yaml)",
        "assumed:",
        "  an image is 64 x 64 pixels (dataset.simulated.size_px)",
        "parameters: vision",
        "activations, language",
        "share of the GPU",
        "hours",
    ):
        assert line in text.stdout
    column = record["stages"]["stage 1"]["layouts"]["replicated"]
    assert column["total"] == sum(column["parts"].values())
    assert record["speed"] == "the given rates of one GPU, 7 and 7 samples a second, for every layout"
    assert record["limits"] == list(planning.LIMITS)


def test_a_speed_of_two_kinds_is_refused():
    with pytest.raises(Unplannable, match="not both"):
        Speed(rates=(1.0, 1.0), tflops=10.0, mfu=0.5)
