"""Every family of Table 2 through the same door: what a stage trains, what a prompt holds, what is saved and read."""

import copy
import io
import json
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from miniature import SHAPE as SMALLEST
from miniature import changed, grays, weights_of
from miniature import new as internvl_of_the_study
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    GPT2Config,
    GPT2LMHeadModel,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from irgpt_lib.irtd.record import png_bytes
from irgpt_lib.models import families
from irgpt_lib.models.families.family import Family, ImagePolicy, UnfitCheckpoint
from irgpt_lib.models.families.frame import Frame
from irgpt_lib.models.families.pandagpt import PandaGPT
from irgpt_lib.models.families.pixels import cropped, padded, patched, size_of, tiled
from irgpt_lib.models.families.qwen2_vl import Qwen2VL
from irgpt_lib.models.vlm import IGNORED, load_base, save_base

POLICY = ImagePolicy(max_tiles=1, min_pixels=3136, max_pixels=4096)
SHAPE = replace(SMALLEST, vision_layers=2)
LARGER = replace(SHAPE, vision_width=48, vision_layers=3, language_width=48, language_layers=2)
ROWS = {
    "internvl": ("internvl", SHAPE),
    "internvl larger": ("internvl", LARGER),
    "qwen2_vl": ("qwen2_vl", SHAPE),
    "llava": ("llava", SHAPE),
    "pandagpt": ("pandagpt", SHAPE),
}
KINDS = list(families.FAMILIES)
IMAGE_TOKENS = {"internvl": 4, "internvl larger": 4, "qwen2_vl": 4, "llava": 16, "pandagpt": 1}
QUESTIONS = ["Is there a car on the left side of the dog?", "Calculate the number of cars in the picture."] * 2
ANSWERS = ["yes", "<num>7</num>", "no", "(A) car"]

NORM, LINEAR = ("weight", "bias"), ("weight", "bias")
INTERNVIT = [
    *(f"layer.{i}.{name}" for i in (0, 1) for name in ("lambda_1", "lambda_2")),
    *(
        f"layer.{i}.{module}.{end}"
        for i in (0, 1)
        for module in (
            *(f"attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "projection_layer")),
            *("mlp.fc1", "mlp.fc2", "layernorm_before", "layernorm_after"),
        )
        for end in LINEAR
    ),
]
QWEN_BLOCKS = [
    f"blocks.{i}.{module}.{end}"
    for i in (0, 1)
    for module in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    for end in LINEAR
]
CLIP_LAYERS = [
    f"encoder.layers.{i}.{module}.{end}"
    for i in (0, 1)  # of three; the outputs of the third are not read
    for module in (
        *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
        *("mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2"),
    )
    for end in LINEAR
]
PROJECTORS = {
    "internvl": [f"multi_modal_projector.{m}.{end}" for m in ("layer_norm", "linear_1", "linear_2") for end in LINEAR],
    "qwen2_vl": [f"visual.merger.{m}.{end}" for m in ("ln_q", "mlp.0", "mlp.2") for end in LINEAR],
    "llava": [f"multi_modal_projector.{m}.{end}" for m in ("linear_1", "linear_2") for end in LINEAR],
    "pandagpt": [f"multi_modal_projector.{end}" for end in LINEAR],
}
ENCODERS = {
    "internvl": [
        *(f"vision_tower.embeddings.{name}" for name in ("cls_token", "position_embeddings")),
        *(f"vision_tower.embeddings.patch_embeddings.projection.{end}" for end in LINEAR),
        *(f"vision_tower.encoder.{name}" for name in INTERNVIT),
    ],
    "qwen2_vl": ["visual.patch_embed.proj.weight", *(f"visual.{name}" for name in QWEN_BLOCKS)],
    "llava": [
        *(f"vision_tower.embeddings.{name}" for name in ("class_embedding", "patch_embedding.weight")),
        "vision_tower.embeddings.position_embedding.weight",
        *(f"vision_tower.pre_layrnorm.{end}" for end in NORM),
        *(f"vision_tower.{name}" for name in CLIP_LAYERS),
    ],
    "pandagpt": [],  # frozen in both stages
}
ADAPTED = [
    f"language_model.layers.0.{module}_proj"
    for module in (*(f"self_attn.{n}" for n in "qkvo"), "mlp.gate", "mlp.up", "mlp.down")
]


@cache
def untouched(row: str) -> Family:
    kind, shape = ROWS[row]
    family = families.build(kind, shape, internvl_of_the_study().tokenizer, 0, POLICY)
    family.model.eval()
    return family


def fresh(row: str) -> Family:
    one = untouched(row)
    return one.with_model(copy.deepcopy(one.model))


@cache
def talkative(row: str) -> Family:
    """A copy whose layers outweigh the tied embeddings: an untrained model only repeats its last token."""
    one = fresh(row)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in one.model.named_parameters():
            if "_proj.weight" in name and "language_model" in name:
                p.normal_(0, 1.0)
    return one


def tiles(family: Family, count: int = 4):
    return [family.read(png_bytes(gray)) for gray in grays(count)]


def inputs(family: Family):
    return family.inputs(QUESTIONS, ANSWERS, tiles(family))


def logits(family: Family, given: dict) -> torch.Tensor:
    with torch.inference_mode():
        return family.model(**{name: value for name, value in given.items() if name != "labels"}).logits


def with_gradient(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.grad is not None}


def one_step(model: torch.nn.Module, given: dict) -> float:
    """One step of AdamW on what requires a gradient; the loss before it."""
    loss = model(**given).loss
    loss.backward()
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2).step()
    return loss.item()


def frame_of(width: int, height: int) -> bytes:
    """A PNG whose gray levels tell its rows, its columns and its noise apart."""
    rng = np.random.default_rng(width)
    smooth = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 90, width))
    buffer = io.BytesIO()
    Image.fromarray((smooth + rng.integers(0, 40, (height, width))).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def rgb(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


# --- what is trained


@pytest.mark.parametrize("row", ROWS)
def test_every_parameter_belongs_to_exactly_one_part(row):
    family = untouched(row)
    parts = [family.names(part) for part in ("vision", "projector", "language")]
    assert all(parts)
    assert sorted(sum(parts, [])) == sorted(name for name, _ in family.model.named_parameters())
    facts = family.facts()
    assert facts["kind"] == ROWS[row][0]
    assert sum(facts[part] for part in family.parts) == sum(p.numel() for p in family.model.parameters())


def test_a_head_of_its_own_belongs_to_the_language_model():
    family = fresh("internvl")
    model = family.model
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    assert "lm_head.weight" in family.names("language")
    assert len(family.names("vision", "projector", "language")) == len(list(model.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_stage_1_trains_exactly_vision_and_projector(kind):
    family = fresh(kind)
    trained = family.begin_stage1()
    expected = {f"model.{name}" for name in (*ENCODERS[kind], *PROJECTORS[kind])}
    assert {part: set(names) for part, names in trained.items()} == {
        "vision": {f"model.{name}" for name in ENCODERS[kind]},
        "projector": {f"model.{name}" for name in PROJECTORS[kind]},
    }
    assert {name for name, p in family.model.named_parameters() if p.requires_grad} == expected
    before = weights_of(family.model)
    family.model.train()
    for module in family.frozen(1):
        module.eval()
    assert not family.model.model.language_model.training
    first = one_step(family.model, inputs(family))
    assert with_gradient(family.model) == expected, "frozen weights get no gradient, all others do"
    assert changed(family.model, before) == expected
    family.model.zero_grad()
    assert one_step(family.model, inputs(family)) < first


@pytest.mark.parametrize(("layer", "read"), [(-1, [0, 1, 2]), (-2, [0, 1]), (-3, [0])])
def test_llava_trains_no_layer_behind_the_one_that_is_read(layer, read):
    family = fresh("llava")
    family.model.config.vision_feature_layer = layer
    trained = family.begin_stage1()
    family.model(**inputs(family)).loss.backward()
    assert with_gradient(family.model) == {name for names in trained.values() for name in names}
    assert sorted({int(n) for name in trained["vision"] for n in re.findall(r"layers\.(\d+)", name)}) == read


@pytest.mark.parametrize("kind", KINDS)
def test_stage_2_trains_exactly_lora_on_the_language_model_and_the_projector(kind):
    family = fresh(kind)
    before = weights_of(family.model)
    adapted = get_peft_model(family.model, lora(family))
    saved = [re.sub(f"^({'|'.join(full(kind))})", r"\1.modules_to_save.default", name) for name in PROJECTORS[kind]]
    expected = {f"base_model.model.model.{name}" for name in saved} | {
        f"base_model.model.model.{module}.lora_{side}.default.weight" for module in ADAPTED for side in "AB"
    }
    assert len(ADAPTED) == 7
    assert {name for name, p in adapted.named_parameters() if p.requires_grad} == expected
    adapted.train()
    for module in family.frozen(2):
        module.eval()
    still = weights_of(adapted)
    first = one_step(adapted, inputs(family))
    assert with_gradient(adapted) == expected
    # LoRA's A gets its first gradient through B, which starts at 0
    moved = changed(adapted, still)
    assert moved <= expected and {name for name in expected if ".lora_A." not in name} <= moved
    base = {re.sub(r"\.(base_layer|original_module)(?=\.)", "", n): p for n, p in adapted.named_parameters()}
    for name, weight in before.items():
        assert torch.equal(base[f"base_model.model.{name}"], weight), f"{name} is of the base"
    adapted.zero_grad()
    assert one_step(adapted, inputs(family)) < first


def full(kind: str) -> tuple[str, ...]:
    return families.FAMILIES[kind].trained_in_full


def lora(family: Family) -> LoraConfig:
    return LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=family.lora_targets,
        modules_to_save=list(family.trained_in_full),
        task_type="CAUSAL_LM",
    )


# --- what is asked and answered


@pytest.mark.parametrize("row", ROWS)
def test_a_prompt_holds_the_image_tokens_that_the_model_fills(row):
    family = untouched(row)
    given = inputs(family)
    assert [family.image_tokens(image) for image in tiles(family)] == [IMAGE_TOKENS[row]] * 4
    assert ((given["input_ids"] == family.image_id).sum(1) == IMAGE_TOKENS[row]).all()
    assert logits(family, given).shape[:2] == given["input_ids"].shape


@pytest.mark.parametrize("row", ROWS)
def test_only_the_answer_and_its_end_are_labelled(row):
    family = untouched(row)
    given = inputs(family)
    for i, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True)):
        expected = [*family.text_ids(answer), family.end_id]
        start = len(family.prompt_ids(question, IMAGE_TOKENS[row]))
        labelled = (given["labels"][i] != IGNORED).nonzero().flatten().tolist()
        assert labelled == list(range(start, start + len(expected)))
        assert given["labels"][i, labelled].tolist() == given["input_ids"][i, labelled].tolist() == expected
        assert given["attention_mask"][i].sum() == start + len(expected)


@pytest.mark.parametrize("row", ROWS)
def test_left_and_right_padding_give_the_same_next_token(row):
    family = untouched(row)
    images = tiles(family)
    asking = family.encode_prompts(QUESTIONS, [IMAGE_TOKENS[row]] * 4)
    left = logits(family, family.text_inputs(asking) | family.image_inputs(images))
    right = logits(family, inputs(family))
    assert not asking.attention_mask.all(), "questions of unlike length"
    for i, question in enumerate(QUESTIONS):
        last = len(family.prompt_ids(question, IMAGE_TOKENS[row])) - 1
        torch.testing.assert_close(left[i, -1], right[i, last], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("row", ROWS)
def test_the_next_token_depends_on_the_image(row):
    family = untouched(row)
    black = family.read(png_bytes(np.zeros((64, 64), np.uint8)))
    given = family.inputs([QUESTIONS[0]] * 2, ["yes"] * 2, [black, tiles(family, 1)[0]])
    # LLaVA's encoder is read before its last norm, so that an untrained one speaks low
    assert (logits(family, given)[0, -3] - logits(family, given)[1, -3]).abs().max() > 1e-4


@pytest.mark.parametrize("row", ROWS)
def test_an_answer_is_text_and_does_not_depend_on_what_else_is_asked(row):
    family = talkative(row)
    images = tiles(family)
    together = family.answer(QUESTIONS, images, max_new_tokens=5)
    alone = [family.answer([q], [image], max_new_tokens=5)[0] for q, image in zip(QUESTIONS, images, strict=True)]
    assert together == alone and all(together) and len(set(together)) > 1
    assert not [token for token in family.tokenizer.all_special_tokens if token in "".join(together)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_learnt_of_an_image_is_what_is_answered(kind):
    family = fresh(kind)
    shades = [family.read(png_bytes(np.full((64, 64), level, np.uint8))) for level in (0, 90, 170, 255)]
    # unlike questions pad the batch, and two of equal words have unlike answers
    answers = ["(A) car", "yes", "<num>7</num>", "no"]
    given = family.inputs(QUESTIONS, answers, shades)
    optimiser = torch.optim.Adam(family.model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        family.model(**given).loss.backward()
        optimiser.step()
    assert family.answer(QUESTIONS, shades, max_new_tokens=6) == answers


def test_the_settings_of_a_checkpoint_for_chats_change_no_answer():
    family = talkative("qwen2_vl")
    asked = QUESTIONS, tiles(family)
    plain = family.answer(*asked, max_new_tokens=5)
    chatting = family.with_model(copy.deepcopy(family.model))
    chatting.model.generation_config.update(do_sample=True, repetition_penalty=20.0, temperature=0.1, top_k=1)
    assert chatting.answer(*asked, max_new_tokens=5) == plain
    ids = chatting.encode_prompts(QUESTIONS, [4] * 4)
    penalised = chatting.model.generate(
        **chatting.text_inputs(ids), **chatting.image_inputs(asked[1]), max_new_tokens=5, do_sample=False
    )
    assert [chatting.decode(row) for row in penalised[:, ids.input_ids.shape[1] :].tolist()] != plain


def test_training_after_asking_is_as_training_before():
    """Qwen2-VL keeps the positions of the last question that it answered."""
    family = fresh("qwen2_vl")
    before = logits(family, inputs(family))
    family.answer(QUESTIONS[:1], tiles(family, 1), max_new_tokens=2)
    assert torch.equal(before, logits(family, inputs(family)))


def test_internvl_is_the_study_s_own_model():
    old, new = internvl_of_the_study(), families.build("internvl", SMALLEST, untouched("llava").tokenizer, 0, POLICY)
    assert all(torch.equal(a, b) for a, b in zip(old.model.parameters(), new.model.parameters(), strict=True))
    old_batch, given = old.encode(QUESTIONS, ANSWERS), inputs(new)
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(getattr(old_batch, name), given[name])
    assert torch.equal(old.pixel_values(grays(4)), given["pixel_values"])
    assert torch.equal(old.ordered, new.ordered) and (old.end_id, old.image_px) == (new.end_id, new.image_px)
    new.model.eval()
    assert old.answer(QUESTIONS, grays(4), max_new_tokens=4) == new.answer(QUESTIONS, tiles(new), max_new_tokens=4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_must_not_hold_the_image_token(kind):
    family = untouched(kind)
    with pytest.raises(ValueError, match="holds the image token"):
        family.prompt_ids(f"{family.image_token} Is there a car?", 4)


# --- what is saved and read


@pytest.mark.parametrize("row", ROWS)
def test_a_saved_model_is_the_same_model(row, tmp_path):
    family = talkative(row)
    family.save(tmp_path)
    loaded = families.load(ROWS[row][0], tmp_path, POLICY)
    loaded.model.eval()
    assert torch.equal(logits(family, inputs(family)), logits(loaded, inputs(loaded)))
    asked = QUESTIONS[:2], tiles(family, 2)
    assert loaded.answer(*asked, max_new_tokens=3) == family.answer(*asked, max_new_tokens=3)
    assert {f.suffix for f in tmp_path.iterdir()} <= {".json", ".safetensors", ".jinja"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_adapter_is_the_same_model(kind, tmp_path):
    family = fresh(kind)
    adapted = get_peft_model(family.model, lora(family))
    for _ in range(2):
        one_step(adapted, inputs(family))
    adapted.eval()
    expected = logits(family, inputs(family))
    assert not torch.equal(expected, logits(untouched(kind), inputs(family)))
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    other = fresh(kind)
    loaded = PeftModel.from_pretrained(other.model, tmp_path).eval()
    assert torch.equal(logits(other, inputs(other)), expected)
    merged = other.with_model(loaded.merge_and_unload())
    torch.testing.assert_close(logits(merged, inputs(merged)), expected, atol=1e-4, rtol=1e-4)


def test_the_base_that_the_study_saved_is_read(tmp_path):
    save_base(internvl_of_the_study(), "", tmp_path)
    old, new = load_base(tmp_path), families.load("internvl", families.base_weights(tmp_path), POLICY)
    assert all(torch.equal(a, b) for a, b in zip(old.model.parameters(), new.model.parameters(), strict=True))


def test_a_base_elsewhere_is_what_its_note_names(tmp_path):
    save_base(None, "somewhere/else", tmp_path)
    assert families.base_weights(tmp_path) == "somewhere/else"
    with pytest.raises(FileNotFoundError, match="dvc repro base"):
        families.base_weights(tmp_path / "none")


def test_llava_is_read_in_the_layout_of_the_hub(tmp_path):
    """There its names are those of the first versions: CLIP within CLIP, and Vicuna as a model of its own."""
    family = untouched("llava")
    family.save(tmp_path)
    file = tmp_path / "model.safetensors"
    names = {
        name: re.sub(r"^vision_tower\.", "vision_tower.vision_model.", name)
        for name in load_file(file)  # saved without `model.` in front
    }
    assert "vision_tower.vision_model.pre_layrnorm.bias" in names.values()
    stored = {names[name]: tensor for name, tensor in load_file(file).items()}
    stored["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(stored, file, {"format": "pt"})
    loaded = families.load("llava", tmp_path, POLICY)
    loaded.model.eval()
    assert torch.equal(logits(family, inputs(family)), logits(loaded, inputs(loaded)))


def test_qwen2_vl_is_read_in_the_layout_of_the_hub(tmp_path):
    """There the language model's settings lie beside those of the whole, its rotary ones under an older name."""
    family = untouched("qwen2_vl")
    family.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text |= {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    config["vision_config"].pop("model_type")
    flat = {k: v for k, v in text.items() if k not in {"model_type", "layer_types"}} | config
    (tmp_path / "config.json").write_text(json.dumps(flat))
    loaded = families.load("qwen2_vl", tmp_path, POLICY)
    loaded.model.eval()
    assert torch.equal(logits(family, inputs(family)), logits(loaded, inputs(loaded)))


def test_a_checkpoint_of_another_family_names_the_cure(tmp_path):
    untouched("llava").save(tmp_path)
    with pytest.raises(UnfitCheckpoint, match="type 'llava', not of qwen2_vl.*set model.kind to llava"):
        families.load("qwen2_vl", tmp_path, POLICY)


@pytest.mark.parametrize(
    ("found", "cure"),
    [("internvl_chat", "convert-internvl2"), ("phi3", "there are internvl, qwen2_vl, llava, pandagpt")],
)
def test_a_checkpoint_of_no_known_family_is_refused(tmp_path, found, cure):
    config = {"model_type": found, "auto_map": {"AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('remote code ran')\n")
    with pytest.raises(UnfitCheckpoint, match=cure):
        families.load("internvl", tmp_path, POLICY)


def test_an_unknown_kind_lists_those_that_exist():
    with pytest.raises(UnfitCheckpoint, match="'blip'; there are internvl, qwen2_vl, llava, pandagpt"):
        families.load("blip", "anywhere", POLICY)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("less", "lacks .*linear_1.weight .1 tensors.: no InternVL"),
        ("more", "also holds .*tail"),
        ("other", "has in other sizes .*linear_1.weight"),
    ],
)
def test_an_unknown_layout_is_refused(tmp_path, change, words):
    untouched("internvl").save(tmp_path)
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    if change == "less":
        del stored["multi_modal_projector.linear_1.weight"]
    elif change == "other":
        stored["multi_modal_projector.linear_1.weight"] = torch.zeros(3, 3)
    else:
        stored["multi_modal_projector.tail.weight"] = torch.zeros(2)
    save_file(stored, file, {"format": "pt"})
    with pytest.raises(UnfitCheckpoint, match=words):
        families.load("internvl", tmp_path, POLICY)


def test_pickled_weights_are_never_read(tmp_path):
    family = untouched("llava")
    family.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(family.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="model.safetensors"):
        families.load("llava", tmp_path, POLICY)


def test_a_checkpoint_without_tokenizer_is_refused(tmp_path):
    untouched("llava").save(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).unlink()
    with pytest.raises(UnfitCheckpoint, match="no tokenizer"):
        families.load("llava", tmp_path, POLICY)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        families.load("llava", tmp_path / "nowhere", POLICY)


# --- published tokenizers, templates and grammars

OWN_TOKENS = {
    "internvl": ("<img>", "<IMG_CONTEXT>", "</img>", "<ref>", "</ref>", "<box>", "</box>"),
    "qwen2_vl": ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|box_start|>", "<|box_end|>"),
    "llava": ("<image>",),
    "pandagpt": ("<IMG_CONTEXT>",),
}
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\\n' }}"
)
PROMPTS = {
    "internvl": "<|im_start|>user\n<img><IMG_CONTEXT><IMG_CONTEXT></img>\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "qwen2_vl": "<|im_start|>user\n<|vision_start|><|image_pad|><|image_pad|><|vision_end|>Why?<|im_end|>\n"
    "<|im_start|>assistant\n",
    "llava": "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: <image><image>\nWhy? ASSISTANT:",
    "pandagpt": "<s>### Human: <Img><IMG_CONTEXT><IMG_CONTEXT></Img> Why?\n### Assistant:",
}


def published(kind: str) -> Family:
    """The miniature with a tokenizer of bytes and the special tokens and template of the published checkpoints."""
    pieces = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    control = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    pieces.add_special_tokens([*control, *OWN_TOKENS[kind]])
    start = ("<s>", pieces.token_to_id("<s>"))
    pieces.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[start])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=[*control[3:], *OWN_TOKENS[kind]],
    )
    if kind == "internvl":
        tokenizer.start_image_token, tokenizer.end_image_token = "<img>", "</img>"
    tokenizer.chat_template = CHAT
    model = copy.deepcopy(untouched(kind).model)
    image = next(token for token in OWN_TOKENS[kind] if re.search("image|IMG", token))
    model.config.image_token_id = tokenizer.convert_tokens_to_ids(image)
    model.config.coordinate_steps = 1000
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return type(untouched(kind))(model, tokenizer, POLICY)


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_checkpoint_is_asked_in_its_own_template(kind):
    family = published(kind)
    assert family.tokenizer.decode(family.prompt_ids("Why?", 2), skip_special_tokens=False) == PROMPTS[kind]


HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def processor_of(kind: str, tokenizer: PreTrainedTokenizerFast):
    """transformers' own processor of the family, with the miniature's sizes."""
    if kind == "llava":
        images = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=64, **HALF)
        patches = {"patch_size": 16, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        return LlavaProcessor(images, tokenizer, **patches)
    if kind == "qwen2_vl":
        tokenizer.image_token = "<|image_pad|>"
        images = Qwen2VLImageProcessorPil(
            patch_size=16, size={"shortest_edge": POLICY.min_pixels, "longest_edge": POLICY.max_pixels}, **HALF
        )
        return Qwen2VLProcessor(images, tokenizer, Qwen2VLVideoProcessor())
    tokenizer.context_image_token, tokenizer.video_token = "<IMG_CONTEXT>", "<video>"
    for name in ("start_image_token", "end_image_token", "context_image_token"):
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(getattr(tokenizer, name)))
    images = GotOcr2ImageProcessorPil(size={"height": 64, "width": 64}, max_patches=12, **HALF)
    return InternVLProcessor(images, tokenizer, InternVLVideoProcessor(), image_seq_length=4)


@pytest.mark.parametrize(("kind", "size"), [("internvl", (640, 512)), ("qwen2_vl", (640, 512)), ("llava", (96, 96))])
def test_prompt_and_pixels_are_those_of_transformers_own_processor(kind, size):
    one = published(kind)
    family = type(one)(one.model, one.tokenizer, replace(POLICY, max_tiles=12))
    data = frame_of(*size)  # a square for LLaVA, whose processor crops what the model was trained to see padded
    images = [family.read(data)]
    batch = family.encode_prompts(["Why?"], [family.image_tokens(images[0])])
    mine = family.text_inputs(batch) | family.image_inputs(images)
    text = re.sub("</?img>", "", family.template().replace("QUESTION", "Why?"))
    processor = processor_of(kind, family.tokenizer)
    theirs = processor(text=[text], images=[rgb(data)], return_tensors="pt", add_special_tokens=kind == "llava")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name].to(mine[name].dtype)) for name in mine)


def test_an_image_token_that_the_tokenizer_lacks_is_refused():
    family = published("llava")
    family.model.config.image_token_id = 10_000
    with pytest.raises(UnfitCheckpoint, match="token 10000, the image of llava's config"):
        family.with_model(family.model)


def test_the_special_tokens_of_a_box_stay_in_the_answer():
    family = published("internvl")
    text = "The target bounding box is <box>[[1, 2, 3, 4]]</box>."
    ids = [*family.text_ids(text), family.end_id, family.pad_id]
    assert family.decode(ids) == text
    assert family.in_study_grammar(text, (640, 512)) == text
    assert "<box>" not in family.tokenizer.decode(ids, skip_special_tokens=True), "what would be lost"


@pytest.mark.parametrize("kind", KINDS)
def test_no_control_token_is_text(kind):
    for family in (untouched(kind), published(kind)):
        tokens = [token.content for token in family.tokenizer.added_tokens_decoder.values()]
        ids = family.tokenizer.convert_tokens_to_ids(tokens)
        assert family.image_id in ids and family.end_id in ids and family.pad_id in ids
        kept = [token for token in tokens if token in family.grammar]
        assert family.decode(ids) == "".join(kept)
        assert bool(kept) == (family is not untouched(kind) and kind in ("internvl", "qwen2_vl"))


def test_a_box_of_qwen2_vl_is_rewritten():
    family = published("qwen2_vl")
    text = "<|box_start|>(12,34),(560, 780)<|box_end|>"
    assert family.decode(family.text_ids(text)) == text
    assert family.in_study_grammar(text, (640, 512)) == "<box>[[12, 34, 560, 780]]</box>"
    assert family.in_study_grammar("at <pos>[(1, 2), (3, 4)]</pos>", (640, 512)) == "at <pos>[(1, 2), (3, 4)]</pos>"


def test_a_box_of_llava_leaves_the_padded_square():
    family = untouched("llava")
    # 640 x 512 stands 64 pixels below the top of a square of 640: 0.1 is its upper border, 0.9 its lower one.
    assert family.in_study_grammar("[0.25, 0.1, 0.5, 0.9]", (640, 512)) == "<box>[[250, 0, 500, 1000]]</box>"
    assert family.in_study_grammar("[0.0, 0.0, 1.0, 1]", (640, 512)) == "<box>[[0, 0, 1000, 1000]]</box>"
    study = "The target bounding box is <box>[[1, 0, 1, 1]]</box>."
    assert family.in_study_grammar(study, (640, 512)) == study


# --- frames and pixels

SIZES = st.tuples(st.integers(32, 2000), st.integers(32, 2000))
CORNERS = st.lists(st.integers(0, 1000), min_size=4, max_size=4)


@settings(max_examples=100, deadline=None, database=None)
@given(CORNERS, SIZES, st.sampled_from(["thousandths", "unit", "padded_unit", "pixels"]))
def test_a_box_survives_the_way_into_a_frame_and_back(corners, size, kind):
    frame = Frame(kind, 6)
    assert frame.to_study(frame.from_study(corners, size), size) == tuple(corners)


def test_a_point_in_every_frame():
    point, size = (500, 250), (640, 480)
    expected = {"thousandths": (500, 250), "unit": (0.5, 0.25), "padded_unit": (0.5, 0.3125), "pixels": (320, 120)}
    assert {kind: Frame(kind, 4).from_study(point, size) for kind in expected} == expected


def test_two_decimals_move_a_coordinate_by_less_than_ten_thousandths():
    frame = untouched("llava").frame
    far = [abs(frame.to_study(frame.from_study((v, v), (640, 512)), (640, 512))[1] - v) for v in range(1001)]
    assert 0 < max(far) <= 7


@pytest.mark.parametrize(
    ("size", "max_tiles", "expected"),
    [((640, 512), 1, 1), ((640, 512), 6, 1), ((640, 512), 12, 13), ((640, 480), 6, 7), ((640, 480), 12, 13)],
)
def test_a_frame_is_as_many_tiles_as_the_policy_says(size, max_tiles, expected):
    data = frame_of(*size)
    mine = tiled(data, 448, max_tiles)
    theirs = GotOcr2ImageProcessorPil(
        size={"height": 448, "width": 448}, crop_to_patches=max_tiles > 1, max_patches=max_tiles, do_normalize=False
    )(rgb(data), return_tensors="np")["pixel_values"]
    assert mine.shape == (expected, 448, 448)
    np.testing.assert_allclose(mine / 255, theirs[:, 0], atol=1e-6)


def test_more_tiles_take_more_tokens():
    one = untouched("internvl")
    many = type(one)(one.model, one.tokenizer, ImagePolicy(12, 3136, 4096))
    data = frame_of(640, 512)
    assert (one.image_tokens(one.read(data)), many.image_tokens(many.read(data))) == (4, 13 * 4)
    mixed = [many.read(data), many.read(png_bytes(grays(1)[0]))]
    given = many.inputs(QUESTIONS[:2], ANSWERS[:2], mixed)
    assert given["pixel_values"].shape == (14, 3, 64, 64)
    together, alone = logits(many, given), logits(many, many.inputs(QUESTIONS[1:2], ANSWERS[1:2], mixed[1:]))
    length = alone.shape[1]
    torch.testing.assert_close(together[1, :length], alone[0], atol=1e-4, rtol=1e-4)


def test_qwen2_vl_sees_a_frame_as_its_own_processor_does():
    data = frame_of(640, 512)
    family = Qwen2VL(untouched("qwen2_vl").model, untouched("qwen2_vl").tokenizer, ImagePolicy(1, 3136, 1003520))
    assert patched(data, 28, 3136, 1003520).shape == (1, 504, 644) and 504 * 644 // 28**2 == 414
    theirs = Qwen2VLImageProcessorPil(patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    expected = theirs(rgb(data), return_tensors="np")
    mine = family.image_inputs([family.read(data)])
    assert mine["image_grid_thw"].tolist() == expected["image_grid_thw"].tolist()
    np.testing.assert_allclose(mine["pixel_values"].numpy(), expected["pixel_values"], atol=1e-5)


def test_qwen2_vl_takes_images_of_unlike_sizes():
    family = untouched("qwen2_vl")
    images = [family.read(frame_of(*size)) for size in ((64, 64), (640, 512), (100, 300))]
    assert [image.shape for image in images] == [(1, 64, 64), (1, 32, 64), (1, 96, 32)]
    given = family.inputs(QUESTIONS[:3], ANSWERS[:3], images)
    assert [family.image_tokens(image) for image in images] == [4, 2, 3]
    alone = logits(family, family.inputs(QUESTIONS[1:2], ANSWERS[1:2], images[1:2]))
    torch.testing.assert_close(logits(family, given)[1, : alone.shape[1]], alone[0], atol=1e-4, rtol=1e-4)


def test_the_middle_square_is_that_of_clip_s_own_processor():
    data = frame_of(200, 150)
    theirs = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=64, do_normalize=False)
    expected = theirs(rgb(data), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(cropped(data, 64)[:, None] / 255 + np.zeros((1, 3, 1, 1)), expected, atol=1e-6)


def test_the_padded_square_keeps_the_whole_frame_in_its_middle():
    white = io.BytesIO()
    Image.new("L", (64, 32), 255).save(white, "PNG")
    square = padded(white.getvalue(), 64, 100)
    assert square.shape == (1, 64, 64) and size_of(white.getvalue()) == (64, 32)
    assert (square[0, :16] == 100).all() and (square[0, 16:48] == 255).all() and (square[0, 48:] == 100).all()


@pytest.mark.parametrize("bad", [(0, 1, 1), (1, 0, 1), (1, 2, 1)])
def test_an_impossible_policy_is_refused(bad):
    with pytest.raises(ValueError, match="min_pixels"):
        ImagePolicy(*bad)


# --- a PandaGPT from its parts


def parts_of_pandagpt(folder, language) -> tuple:
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=16
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "clip")
    language.save_pretrained(folder / "language")
    tokenizer = copy.deepcopy(published("llava").tokenizer)
    tokenizer.save_pretrained(folder / "language")
    return folder / "clip", folder / "language"


def test_a_pandagpt_is_composed_of_clip_and_a_language_model(tmp_path):
    words = len(published("llava").tokenizer)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=words,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            eos_token_id=1,
        )
    )
    encoder, language = parts_of_pandagpt(tmp_path, llama)
    family = PandaGPT.compose(encoder, language, POLICY, seed=0, dtype=torch.float32)
    assert family.image_id == words and family.model.lm_head.out_features == words + 1
    assert not any(p.is_meta for p in family.model.parameters())
    parts = ("vision", "projector", "language")
    assert len(family.names(*parts)) == len(list(family.model.parameters()))
    assert torch.equal(dict(family.model.named_parameters())["lm_head.weight"][:words], llama.lm_head.weight)
    family.save(tmp_path / "whole")
    loaded = families.load("pandagpt", tmp_path / "whole", POLICY)
    for one in (family, loaded):
        one.model.eval()
    assert torch.equal(logits(family, inputs(family)), logits(loaded, inputs(loaded)))


def test_a_language_model_of_another_build_is_refused(tmp_path):
    size = {"vocab_size": 300, "n_embd": 16, "n_layer": 1, "n_head": 2}
    other = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=1, eos_token_id=1))
    encoder, language = parts_of_pandagpt(tmp_path, other)
    with pytest.raises(UnfitCheckpoint, match="no matrix has a name"):
        PandaGPT.compose(encoder, language, POLICY, seed=0, dtype=torch.float32)
