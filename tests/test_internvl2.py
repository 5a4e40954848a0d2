"""The InternVL2 converter: every tensor, the logits, the tokenizer, and what it refuses."""

import hashlib
import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from internvl2_reference import (
    APPENDED,
    CORPUS,
    LARGER_VISION,
    RELEASED_8B,
    RESERVED,
    Original,
    original_tensors,
    piece_ids,
    piece_model,
    read_original,
    write_original,
    write_weights,
)
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from irgpt_lib.cli import models as commands
from irgpt_lib.models import internvl2, vlm
from irgpt_lib.models.internvl2 import MANIFEST, Rows, UnknownLayout, convert, plan, read_layout
from irgpt_lib.models.internvl2_tokenizer import SYSTEM

TEXTS = [
    "where is the person in the infrared image?",
    "The Thermal CAMERA saw 12 persons.",
    "",
    " ",
    "  two  spaces   and one at the end ",
    "line\nbreak\tand tab",
    "你好，红外图像 🚗 ½ naïve",
    "aaaaaa eeeeee the the thethe",
    "a ▁ that was there before",
    "a box is [[120, 30, 560, 780]], a point (640, 512)",
]
VARIANTS = {
    "grouped queries": {},
    "biases": {"language": {"bias": True}},
    "no scaling": {"language": {"rope_scaling": None}},
    "a key for every query": {"language": {"num_key_value_heads": 6}},
    "one key for all": {"language": {"num_key_value_heads": 1, "rope_scaling": {"type": "dynamic", "factor": 3.0}}},
    "the larger encoder": {"vision": LARGER_VISION},
}
SAME = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}

OUTSIDE_LAYERS = {
    "vision_model.embeddings.class_embedding": "vision_tower.embeddings.cls_token",
    "vision_model.embeddings.position_embedding": "vision_tower.embeddings.position_embeddings",
    "vision_model.embeddings.patch_embedding.weight": "vision_tower.embeddings.patch_embeddings.projection.weight",
    "vision_model.embeddings.patch_embedding.bias": "vision_tower.embeddings.patch_embeddings.projection.bias",
    "mlp1.0.weight": "multi_modal_projector.layer_norm.weight",
    "mlp1.0.bias": "multi_modal_projector.layer_norm.bias",
    "mlp1.1.weight": "multi_modal_projector.linear_1.weight",
    "mlp1.1.bias": "multi_modal_projector.linear_1.bias",
    "mlp1.3.weight": "multi_modal_projector.linear_2.weight",
    "mlp1.3.bias": "multi_modal_projector.linear_2.bias",
    "language_model.model.tok_embeddings.weight": "language_model.embed_tokens.weight",
    "language_model.model.norm.weight": "language_model.norm.weight",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "InternVL2-mini"
    write_original(folder)
    return folder


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("native") / "InternVL2-mini-hf"
    convert(source, folder)
    return folder


@pytest.fixture
def broken(source, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(source, tmp_path / "broken"))


def loaded(folder: Path):
    model, told = transformers.AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


def change(folder: Path, file: str, key: str, value) -> None:
    """Set `a.b` of a JSON file, or drop it where the value is `...`."""
    content = json.loads((folder / file).read_text())
    *sections, name = key.split(".")
    inner = content
    for section in sections:
        inner = inner[section]
    if value is ...:
        del inner[name]
    else:
        inner[name] = value
    (folder / file).write_text(json.dumps(content))


def rewrite(folder: Path, new: dict | None = None, without: str = "") -> None:
    """The folder's tensors with some changed, added or left out, in one file."""
    tensors = {k: v for k, v in (read_original(folder) | (new or {})).items() if k != without}
    for file in folder.glob("model*"):
        file.unlink()
    write_weights(folder, tensors, 1)


# tensors


def expected_tensors(config: dict, old: dict) -> dict:
    """The native tensors by hand: whole ones renamed, packed ones cut head by head."""
    new = {}
    for name, tensor in old.items():
        part, _, kind = name.rpartition(".")
        layer = name.split(".layers.")[1].split(".")[0] if ".layers." in name else ""
        if "attention.wqkv" in name:
            llm = config["llm_config"]
            width = llm["hidden_size"] // llm["num_attention_heads"]
            shared = llm["num_attention_heads"] // llm["num_key_value_heads"]
            vectors = tensor.split(width)
            block = [vectors[i : i + shared + 2] for i in range(0, len(vectors), shared + 2)]
            to = f"model.language_model.layers.{layer}.self_attn"
            new[f"{to}.q_proj.{kind}"] = torch.cat([query for group in block for query in group[:-2]])
            new[f"{to}.k_proj.{kind}"] = torch.cat([group[-2] for group in block])
            new[f"{to}.v_proj.{kind}"] = torch.cat([group[-1] for group in block])
        elif "attn.qkv" in name:
            to = f"model.vision_tower.encoder.layer.{layer}.attention"
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                new[f"{to}.{letter}_proj.{kind}"] = third
        elif name.startswith("language_model.model.layers."):
            inner = part.split(f".layers.{layer}.")[1]
            new[f"model.language_model.layers.{layer}.{SAME[inner]}.{kind}"] = tensor
        elif name.startswith("vision_model.encoder."):
            inner = name.split(f".layers.{layer}.")[1]
            for a, b in (
                ("attn.proj", "attention.projection_layer"),
                ("attn.", "attention."),
                ("norm1", "layernorm_before"),
                ("norm2", "layernorm_after"),
                ("ls1", "lambda_1"),
                ("ls2", "lambda_2"),
            ):
                inner = inner.replace(a, b)
            new[f"model.vision_tower.encoder.layer.{layer}.{inner}"] = tensor
        elif name == "language_model.output.weight":
            new["lm_head.weight"] = tensor
        else:
            new[f"model.{OUTSIDE_LAYERS[name]}"] = tensor
    return new


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_tensor_is_the_right_part_of_the_original_bit_by_bit(variant, dtype, tmp_path):
    config = write_original(tmp_path / "old", dtype=dtype, **variant)
    convert(tmp_path / "old", tmp_path / "new")
    expected = expected_tensors(config, read_original(tmp_path / "old"))
    found = load_file(tmp_path / "new" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_logits_are_those_of_the_original(variant, tmp_path):
    """Double precision against transformers' single precision: logits of size 1 agree to 2e-5."""
    config = write_original(tmp_path / "old", **variant)
    convert(tmp_path / "old", tmp_path / "new")
    model, original = loaded(tmp_path / "new"), Original(config, read_original(tmp_path / "old"))
    draw = torch.Generator().manual_seed(1)
    limit, image = config["llm_config"]["max_position_embeddings"], model.config.image_token_id
    short, long = (torch.randint(3, 300, (2, length), generator=draw) for length in (20, limit + 30))
    pixels = torch.randn(2, 3, 32, 32, generator=draw)
    shown = short.clone()
    shown[:, 4:8] = image
    with torch.inference_mode():
        for ids, seen in ((short, None), (shown, pixels), (long, None)):
            given = {} if seen is None else {"pixel_values": seen}
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **given).logits.double()
            expected = original.logits(ids, seen, image)
            assert expected.std() > 0.5
            torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)


def test_the_reference_notices_a_wrong_order_in_the_packed_matrix(source, tmp_path, monkeypatch):
    right = internvl2.language_layer_plan

    def all_queries_first(layout, old, new):
        for origin in right(layout, old, new):
            rows = origin.rows and Rows(1, origin.rows.start * 2, origin.rows.stop * 2)
            yield internvl2.Origin(origin.name, origin.source, origin.source_shape, rows)

    monkeypatch.setattr(internvl2, "language_layer_plan", all_queries_first)
    convert(source, tmp_path / "wrong")
    ids = torch.arange(30)[None] + 260
    with torch.inference_mode():
        logits = loaded(tmp_path / "wrong")(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.double()
    expected = Original(json.loads((source / "config.json").read_text()), read_original(source)).logits(ids)
    assert (logits - expected).abs().max() > 0.1


def test_the_manifest_tells_every_tensor_from_its_origin_alone(source, converted):
    manifest = json.loads((converted / MANIFEST).read_text())
    tensors = load_file(converted / "model.safetensors")
    assert manifest["tensors"].keys() == tensors.keys()
    for name, told in manifest["tensors"].items():
        with safe_open(source / told["source_file"], framework="pt") as file:
            whole = file.get_tensor(told["source"])
        assert (list(whole.shape), told["dtype"], told["shape"]) == (
            told["source_shape"],
            "F32",
            list(tensors[name].shape),
        )
        if told["rows"]:
            blocks = whole.chunk(told["rows"]["groups"])
            whole = torch.cat([block[told["rows"]["start"] : told["rows"]["stop"]] for block in blocks])
        assert hashlib.sha256(whole.numpy().tobytes()).hexdigest() == told["sha256"]
        assert torch.equal(whole, tensors[name])
    for name, told in manifest["source"].items():
        data = (source / name).read_bytes()
        assert told == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert len(manifest["source"]) == 3 + len(list(source.glob("*.safetensors")))


def test_shards_hold_at_most_their_size_and_load_as_one_file_does(source, converted, tmp_path):
    limit = 40_000
    manifest = convert(source, tmp_path / "cut", shard_bytes=limit)
    files = sorted((tmp_path / "cut").glob("*.safetensors"))
    assert len(files) > 3
    sources: list[str] = []
    for file in files:
        tensors = load_file(file)
        assert sum(t.nbytes for t in tensors.values()) <= limit or len(tensors) == 1
        read = {manifest["tensors"][name]["source_file"] for name in tensors}
        assert sources[-1:] <= sorted(read), "source files come one after the other"
        sources += sorted(read)
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: told["file"] for name, told in manifest["tensors"].items()}
    whole = loaded(converted).state_dict()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())
    for name, tensor in loaded(tmp_path / "cut").state_dict().items():
        assert torch.equal(tensor, whole[name])


def test_one_weight_file_without_an_index_gives_the_same(source, converted, tmp_path):
    shutil.copytree(source, tmp_path / "old")
    rewrite(tmp_path / "old")
    convert(tmp_path / "old", tmp_path / "new")
    one, many = (load_file(folder / "model.safetensors") for folder in (tmp_path / "new", converted))
    assert one.keys() == many.keys() and all(torch.equal(one[name], many[name]) for name in one)


def test_equal_checkpoints_give_equal_bytes(source, converted, tmp_path):
    convert(source, tmp_path / "again")
    names = sorted(file.name for file in converted.iterdir())
    assert names == sorted(file.name for file in (tmp_path / "again").iterdir())
    for name in names:
        assert (converted / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def larger(config: dict) -> dict:
    """The released InternVL2-26B."""
    llm = {"hidden_size": 6144, "intermediate_size": 16384, "num_attention_heads": 48, "num_hidden_layers": 48}
    vision = {"hidden_size": 3200, "intermediate_size": 12800, "num_attention_heads": 25, "num_hidden_layers": 45}
    return config | {
        "llm_config": config["llm_config"] | llm,
        "vision_config": config["vision_config"] | vision | LARGER_VISION,
    }


@pytest.mark.parametrize(
    ("config", "billions"), [(RELEASED_8B, 8.08), (larger(RELEASED_8B), 25.5)], ids=["InternVL2-8B", "InternVL2-26B"]
)
def test_the_plan_of_a_release_is_the_native_model_of_that_size(config, billions, converted):
    layout = read_layout(config)
    origins = plan(layout)
    tokenizer = transformers.AutoTokenizer.from_pretrained(converted)
    internvl2.check_native(internvl2.native_config(config, layout, tokenizer, "bfloat16"), origins)
    parameters = sum(torch.Size(origin.shape).numel() for origin in origins)
    assert parameters / 1e9 == pytest.approx(billions, abs=0.05)
    assert (layout.image_tokens, layout.head_width) == (256, 128)


def test_settings_are_carried_over_and_the_head_is_not_tied(source, tmp_path):
    old = Path(shutil.copytree(source, tmp_path / "old"))
    changes = {
        "min_dynamic_patch": 2,
        "max_dynamic_patch": 6,
        "vision_config.dropout": 0.1,
        "vision_config.attention_dropout": 0.2,
        "vision_config.layer_norm_eps": 1e-3,
        "vision_config.initializer_factor": 0.3,
        "llm_config.initializer_range": 0.04,
    }
    for key, value in changes.items():
        change(old, "config.json", key, value)
    convert(old, tmp_path / "new")
    config = loaded(tmp_path / "new").config
    vision, text = config.vision_config, config.text_config
    assert (vision.projection_dropout, vision.attention_dropout, vision.layer_norm_eps) == (0.1, 0.2, 1e-3)
    assert (vision.layer_scale_init_value, text.initializer_range, text.max_position_embeddings) == (0.3, 0.04, 64)
    assert text.rope_parameters == {"rope_type": "dynamic", "rope_theta": 10_000, "factor": 2}
    assert not config.tie_word_embeddings and not text.tie_word_embeddings
    images = transformers.AutoProcessor.from_pretrained(tmp_path / "new").image_processor
    assert (images.min_patches, images.max_patches, images.crop_to_patches) == (2, 6, True)
    assert (*images.image_mean, *images.image_std) == (0.485, 0.456, 0.406, 0.229, 0.224, 0.225)


# tokenizer


@cache
def pieces(prefix: bool):
    return piece_model(prefix=prefix)


@pytest.fixture(scope="module")
def tokenizers(converted, tmp_path_factory) -> dict:
    """The rebuilt tokenizers, without and with a space before the text."""
    folder = tmp_path_factory.mktemp("prefix")
    write_original(folder / "old", prefix=True)
    convert(folder / "old", folder / "new")
    return {p: transformers.AutoTokenizer.from_pretrained(at) for p, at in ((False, converted), (True, folder / "new"))}


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("text", [*TEXTS, CORPUS])
def test_ids_are_those_of_the_piece_model(text, prefix, tokenizers):
    assert tokenizers[prefix](text, add_special_tokens=False).input_ids == piece_ids(pieces(prefix), text)


@given(st.text(alphabet="the aprsoncimgd\n▁é", max_size=40))
@settings(max_examples=60, deadline=None)
def test_ids_are_those_of_the_piece_model_for_any_text(tokenizers, text):
    assert tokenizers[False](text, add_special_tokens=False).input_ids == piece_ids(pieces(False), text)


def test_text_never_becomes_a_control_piece_but_a_reserved_one(tokenizers):
    control = [piece.piece for piece in pieces(False).pieces if piece.type == 3][-1]
    text = f"{control.replace('▁', ' ')}[UNUSED_TOKEN_1]"
    ids = tokenizers[False](text, add_special_tokens=False).input_ids
    assert ids == piece_ids(pieces(False), text)
    assert len(control) > 1 and tokenizers[False].convert_tokens_to_ids(control) not in ids
    assert ids[-1] == tokenizers[False].convert_tokens_to_ids("[UNUSED_TOKEN_1]")


@pytest.mark.parametrize("prefix", [False, True])
def test_ids_are_those_of_the_sentencepiece_library(prefix, tokenizers):
    library = pytest.importorskip("sentencepiece", reason="sentencepiece, of the extra `test`, is not installed")
    encoder = library.SentencePieceProcessor(model_proto=pieces(prefix).SerializeToString())
    for text in [*TEXTS, CORPUS]:
        assert tokenizers[prefix](text, add_special_tokens=False).input_ids == encoder.encode(text), text


def test_a_model_that_the_sentencepiece_library_trained_gives_its_ids(source, tmp_path):
    library = pytest.importorskip("sentencepiece", reason="sentencepiece, of the extra `test`, is not installed")
    (tmp_path / "corpus.txt").write_text(CORPUS * 20 + "你好 红外 图像\n")
    library.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"),
        model_prefix=str(tmp_path / "trained"),
        vocab_size=380,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        user_defined_symbols=[f"[UNUSED_TOKEN_{i}]" for i in range(len(RESERVED))],
        minloglevel=2,
    )
    old = Path(shutil.copytree(source, tmp_path / "old"))
    shutil.copy(tmp_path / "trained.model", old / "tokenizer.model")
    encoder = library.SentencePieceProcessor(model_file=str(tmp_path / "trained.model"))
    first = encoder.piece_to_id("[UNUSED_TOKEN_0]")
    names = ["<unk>", "<s>", "</s>"]
    added = dict(enumerate(names)) | {first + i: t for i, t in enumerate(RESERVED)}
    added |= {encoder.get_piece_size() + i: t for i, t in enumerate(APPENDED)}
    change(old, "tokenizer_config.json", "added_tokens_decoder", {str(i): {"content": t} for i, t in added.items()})
    config = json.loads((old / "config.json").read_text())
    config["llm_config"]["vocab_size"] = max(added) + 1
    (old / "config.json").write_text(json.dumps(config))
    rewrite(old, original_tensors(config))
    convert(old, tmp_path / "new")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    for text in [*TEXTS, CORPUS]:
        assert tokenizer(text, add_special_tokens=False).input_ids == encoder.encode(text), text


def test_special_tokens_keep_their_ids_and_split_text(source, tokenizers):
    tokenizer = tokenizers[False]
    stated = json.loads((source / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert tokenizer.convert_ids_to_tokens([int(i) for i in stated]) == [token["content"] for token in stated.values()]
    assert len(tokenizer) == max(map(int, stated)) + 1
    expected = [*piece_ids(pieces(False), "the"), tokenizer.convert_tokens_to_ids("<box>")]
    assert tokenizer("the<box>", add_special_tokens=False).input_ids == expected
    assert tokenizer("the").input_ids == [tokenizer.bos_token_id, *piece_ids(pieces(False), "the")]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.padding_side == "right"


@pytest.mark.parametrize("text", [text for text in TEXTS if "▁" not in text])
def test_text_survives_the_round_trip(text, tokenizers):
    for tokenizer in tokenizers.values():
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text


# as transformers and the study use it


def test_the_processor_puts_as_many_image_tokens_as_the_model_makes(source, converted):
    processor, model = transformers.AutoProcessor.from_pretrained(converted), loaded(converted)
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "where is the person?"}]}]
    prompt = processor.apply_chat_template(message, add_generation_prompt=True)
    assert prompt == (
        f"<s><|im_start|>system\n{SYSTEM}<|im_end|><|im_start|>user\n<IMG_CONTEXT>\nwhere is the person?<|im_end|>"
        "<|im_start|>assistant\n"
    )
    inputs = processor(images=Image.new("RGB", (64, 32)), text=prompt, add_special_tokens=False, return_tensors="pt")
    assert inputs["pixel_values"].shape == (3, 3, 32, 32)  # two tiles and the thumbnail
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 3 * 4
    with torch.inference_mode():
        logits = model(**inputs).logits
    original = Original(json.loads((source / "config.json").read_text()), read_original(source))
    ids = inputs["input_ids"]
    expected = original.logits(ids, inputs["pixel_values"], model.config.image_token_id)
    torch.testing.assert_close(logits.double(), expected, atol=2e-5, rtol=0)


def test_the_template_refuses_a_video_and_takes_another_system_message(converted):
    tokenizer = transformers.AutoTokenizer.from_pretrained(converted)
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "the car"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<s><|im_start|>system\nBe short.<|im_end|><|im_start|>user\nthe car<|im_end|>"
    )
    with pytest.raises(Exception, match="send a video as its frames"):
        tokenizer.apply_chat_template([{"role": "user", "content": [{"type": "video"}]}])


def test_the_study_loads_it_and_asks_as_the_original_does(converted):
    model = vlm.load(converted)
    prompt = model.tokenizer.decode(model.prompt_ids("where is the car?"))
    assert prompt == (
        f"<s><|im_start|>system\n{SYSTEM}<|im_end|><|im_start|>user\n<img>{'<IMG_CONTEXT>' * 4}</img>\n"
        "where is the car?<|im_end|><|im_start|>assistant\n"
    )
    assert model.tokenizer.convert_ids_to_tokens(model.end_id) == "<|im_end|>"


# what is refused


def weights(**changes):
    return lambda folder: rewrite(folder, **changes)


def setting(key, value, file="config.json"):
    return lambda folder: change(folder, file, key, value)


def drop(file):
    return lambda folder: (folder / file).unlink()


def cut_short(folder):
    file = folder / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def only_pickles(folder):
    for file in folder.glob("model*"):
        file.rename(folder / f"pytorch_{file.stem}.bin")


def twice(folder):
    tensors = load_file(folder / "model-00002-of-00003.safetensors")
    save_file(tensors, folder / "model-00003-of-00003.safetensors")


def outside(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["mlp1.0.bias"] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def text_model(**changes):
    def spoil(folder):
        model = piece_model()
        for key, value in changes.items():
            section, _, name = key.partition("__")
            setattr(getattr(model, section), name, value)
        (folder / "tokenizer.model").write_bytes(model.SerializeToString())

    return spoil


def write(file, data):
    return lambda folder: (folder / file).write_bytes(data)


LLM, VISION, TOKENS = "llm_config.", "vision_config.", "tokenizer_config.json"
IMAGE_ID = str(len(piece_model().pieces) + 2)
ROWS = len(piece_model().pieces) + len(APPENDED)
REFUSED = {
    "native": (setting("architectures", ["InternVLForConditionalGeneration"]), "native already"),
    "1B": (setting(f"{LLM}architectures", ["Qwen2ForCausalLM"]), "as in InternVL2-1B.*2B, 8B and 26B"),
    "4B": (setting(f"{LLM}architectures", ["Phi3ForCausalLM"]), "as in InternVL2-4B"),
    "40B": (setting(f"{LLM}architectures", ["LlamaForCausalLM"]), "as in InternVL2-40B"),
    "another": (setting(f"{LLM}architectures", ["MambaForCausalLM"]), "no release known here"),
    "no language model": (setting(f"{LLM}architectures", None), "no release known here"),
    "section lost": (setting("vision_config", ...), "vision_config.* is missing"),
    "setting lost": (setting(f"{LLM}bias", ...), "llm_config.bias is missing; take config.json"),
    "linear scaling": (setting(f"{LLM}rope_scaling", {"type": "linear", "factor": 2.0}), "only null and type dynamic"),
    "other scaling": (setting(f"{LLM}rope_scaling", {"type": "yarn", "factor": 2, "beta": 1}), "rope_scaling is"),
    "scaling of words": (setting(f"{LLM}rope_scaling", "dynamic"), "rope_scaling is dynamic"),
    "shrinking": (setting(f"{LLM}rope_scaling.factor", 0.5), "at least 1"),
    "other positions": (setting(f"{LLM}rope_pos_id_version", "v2pe"), "rope_pos_id_version is 'v2pe'"),
    "tied": (setting(f"{LLM}tie_word_embeddings", True), "tie_word_embeddings is True"),
    "other activation": (setting(f"{LLM}hidden_act", "gelu"), "hidden_act is 'gelu'; only 'silu'"),
    "lora inside": (setting("use_llm_lora", 16), "use_llm_lora is 16"),
    "older shuffle": (setting("ps_version", "v1"), "ps_version is 'v1'; only 'v2'"),
    "inner layer": (setting("select_layer", -4), "select_layer is -4"),
    "other template": (setting("template", "Hermes-2"), "template is 'Hermes-2'"),
    "one tile": (setting("dynamic_image_size", False), "dynamic_image_size is False"),
    "padded": (setting("pad2square", True), "pad2square is True"),
    "quantised": (setting("quantization_config", {"quant_method": "awq"}), "quantization_config is"),
    "other norm": (setting(f"{VISION}norm_type", "batch_norm"), "norm_type is 'batch_norm'"),
    "other size": (setting("force_image_size", 64), "force_image_size 64 is not"),
    "odd grid": (setting(f"{VISION}patch_size", 6), "no multiple of 6 × 2"),
    "odd ratio": (setting("downsample_ratio", 0.4), "not one over a whole number"),
    "uneven heads": (setting(f"{LLM}num_key_value_heads", 4), "6 heads do not divide into 4 groups"),
    "uneven vision": (setting(f"{VISION}num_attention_heads", 5), "do not divide into 5 vision heads"),
    "no number": (setting(f"{LLM}hidden_size", "48"), "hidden_size is '48', not a whole number"),
    "no flag": (setting(f"{LLM}bias", "no"), "bias is 'no', neither true nor false"),
    "no small number": (setting(f"{LLM}rms_norm_eps", "1e-5"), "rms_norm_eps is '1e-5', not a number above 0"),
    "negative base": (setting(f"{LLM}rope_theta", -1), "rope_theta is -1, not a number above 0"),
    "other size of words": (setting(f"{LLM}hidden_size", 96), "shapes that config.json does not give: language_model"),
    "more layers": (setting(f"{LLM}num_hidden_layers", 3), "tensors are missing: language_model.model.layers.2"),
    "fewer layers": (setting(f"{VISION}num_hidden_layers", 1), "unknown tensors: vision_model.encoder.layers.1"),
    "bias stated": (setting(f"{LLM}bias", True), "missing: .*wqkv.bias"),
    "tensor lost": (weights(without="mlp1.3.weight"), "tensors are missing: mlp1.3.weight"),
    "tensor more": (weights(new={"mlp1.4.weight": torch.ones(3)}), "unknown tensors: mlp1.4.weight"),
    "tensor turned": (weights(new={"mlp1.1.weight": torch.ones(128, 48)}), r"mlp1.1.weight is \[128, 48\], not \[48"),
    "tensor of integers": (weights(new={"mlp1.3.bias": torch.ones(48, dtype=torch.int8)}), "type F32, I8"),
    "mixed types": (weights(new={"mlp1.3.bias": torch.ones(48).half()}), "type F16, F32; all must have one"),
    "cut short": (cut_short, "model-00002-of-00003.safetensors: damaged.*fetch it again"),
    "twice": (twice, "is in model-00002-of-00003.safetensors and again in model-00003"),
    "index of another": (setting("weight_map.mlp9", "model-00001-of-00003.safetensors", "model.safetensors.index.json"),
                         "disagree about mlp9"),
    "index without": (setting("weight_map", {}, "model.safetensors.index.json"), "holds no weight_map"),
    "outside": (outside, "outside its folder: ../elsewhere"),
    "no JSON": (write("config.json", b"{"), "config.json: no JSON"),
    "no object": (write("config.json", b"[]"), "no JSON object"),
    "other pixels": (setting("image_mean", [0.5, 0.5, 0.5], "preprocessor_config.json"), r"image_mean is \[0.5"),
    "no text model": (write("tokenizer.model", b"\xff\xfe garbage"), "tokenizer.model: no SentencePiece model"),
    "empty text model": (write("tokenizer.model", b""), "is no byte-pair model"),
    "unigrams": (text_model(trainer_spec__model_type=1), "is no byte-pair model"),
    "no bytes": (text_model(trainer_spec__byte_fallback=False), "is no byte-pair model with byte fallback"),
    "rewriting": (text_model(normalizer_spec__precompiled_charsmap=b"map"), "rewrites characters"),
    "dropping": (text_model(normalizer_spec__remove_extra_whitespaces=True), "drops spaces"),
    "no tokens": (setting("added_tokens_decoder", ..., TOKENS), "holds no ids of special tokens"),
    "token lost": (setting(f"added_tokens_decoder.{IMAGE_ID}", ..., TOKENS), "are missing: <IMG_CONTEXT>"),
    "token past the rows": (setting(f"added_tokens_decoder.{ROWS}", {"content": "<more>"}, TOKENS), f"{ROWS} rows"),
    "gap": (setting(f"added_tokens_decoder.{ROWS + 4}", {"content": "<more>"}, TOKENS), "leave a gap"),
    "two ids": (setting("added_tokens_decoder.370", {"content": "<img>"}, TOKENS), "a special token has two ids"),
    "greedy token": (setting(f"added_tokens_decoder.{IMAGE_ID}.lstrip", True, TOKENS), "take text beside them: <IMG"),
    "other end": (setting(f"{LLM}eos_token_id", 5), "eos_token_id is 5, the tokenizer's 2"),
}  # fmt: skip
MISSING = {
    "pickles": (only_pickles, "only pickled weights .*fetch the \\*.safetensors"),
    "no weights": (lambda folder: [file.unlink() for file in folder.glob("model*")], "neither model.safetensors.index"),
    "a shard": (drop("model-00002-of-00003.safetensors"), "model-00002-of-00003.safetensors is missing"),
    "config": (drop("config.json"), "config.json is missing"),
    "text model": (drop("tokenizer.model"), "tokenizer.model is missing"),
    "text settings": (drop("tokenizer_config.json"), "tokenizer_config.json is missing"),
}


@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_an_unknown_layout_is_refused_and_leaves_nothing(spoil, message, broken):
    spoil(broken)
    with pytest.raises(UnknownLayout, match=f"(?s){broken}: .*{message}"):
        convert(broken, broken.parent / "new")
    assert list(broken.parent.iterdir()) == [broken]


@pytest.mark.parametrize(("spoil", "message"), MISSING.values(), ids=MISSING)
def test_a_missing_file_is_named(spoil, message, broken):
    spoil(broken)
    with pytest.raises(FileNotFoundError, match=f"{broken}.*{message}"):
        convert(broken, broken.parent / "new")
    assert list(broken.parent.iterdir()) == [broken]


def test_transformers_that_stores_otherwise_is_noticed(source, tmp_path, monkeypatch):
    monkeypatch.setattr(internvl2, "projector_plan", lambda layout: iter(()))
    monkeypatch.setattr(internvl2, "check_tensors", lambda origins, stored: "F32")
    with pytest.raises(UnknownLayout, match="otherwise than this converter: model.multi_modal_projector.layer_norm"):
        convert(source, tmp_path / "new")


# safety


def test_a_conversion_that_dies_leaves_no_folder(source, tmp_path, monkeypatch):
    written = []

    def fails_on_the_third(tensors, file, metadata):
        written.append(file)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        save_file(tensors, file, metadata)

    monkeypatch.setattr(internvl2, "save_file", fails_on_the_third)
    with pytest.raises(OSError, match="No space left"):
        convert(source, tmp_path / "new", shard_bytes=40_000)
    assert len(written) == 3 and not list(tmp_path.iterdir())


def test_an_existing_folder_is_left_as_it_is(source, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="name another folder, or remove it first"):
        convert(source, tmp_path / "new")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["notes.txt"]


def test_the_code_of_a_checkpoint_is_neither_run_nor_carried_over(broken):
    trap = f"open({str(broken.parent / 'ran')!r}, 'w')"
    for name in ("configuration_internvl_chat", "modeling_internvl_chat", "tokenization_internlm2"):
        (broken / f"{name}.py").write_text(trap)
    (broken / "pytorch_model.bin").write_bytes(f"c__builtin__\nexec\n(V{trap}\ntR.".encode())
    change(broken, "config.json", "auto_map", {"AutoModel": "modeling_internvl_chat.InternVLChatModel"})
    change(broken, TOKENS, "auto_map", {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]})
    target = broken.parent / "new"
    convert(broken, target)
    loaded(target)
    transformers.AutoProcessor.from_pretrained(target)
    assert not (broken.parent / "ran").exists()
    assert {file.suffix for file in target.iterdir()} == {".json", ".jinja", ".safetensors"}
    assert not [file for file in target.glob("*.json") if "auto_map" in file.read_text()]


# shell


def call(*words: object):
    app = typer.Typer()
    app.add_typer(commands.app, name="models")
    return CliRunner().invoke(app, ["models", *map(str, words)])


def test_the_command_converts_and_tells_where(source, tmp_path):
    result = call("convert-internvl2", source, tmp_path / "new")
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"{tmp_path / 'new'}: 67 tensors in 1 files" in result.stdout
    assert str(tmp_path / "new" / MANIFEST) in result.stdout
    told = json.loads(call("convert-internvl2", source, tmp_path / "newer", "--json").stdout)
    assert (told["tensors"], told["files"]) == (67, ["model.safetensors"])


def test_the_command_says_in_one_line_what_is_wrong(broken):
    change(broken, "config.json", "ps_version", "v1")
    result = call("convert-internvl2", broken, broken.parent / "new")
    assert result.exit_code == 2
    assert result.stderr == f"irgpt: {broken}: config.json: ps_version is 'v1'; only 'v2' can be converted\n"
    missing = call("convert-internvl2", broken / "nowhere", broken.parent / "new")
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)
    assert "config.json is missing; name the folder" in missing.stderr
