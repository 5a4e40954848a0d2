"""InternLM2's SentencePiece tokenizer, rebuilt as a fast tokenizer in the standard format, without the release's code.

The model file is a protocol buffer: pieces with scores, and how text is prepared. Byte-pair encoding by scores is what
`tokenizers` computes from a list of merges in the same order. Six reserved pieces, and nine ids after the last piece,
carry the release's own tokens; `tokenizer_config.json` says which.
"""

import json
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges, import_protobuf

TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json")
BEGIN, END, PAD, UNKNOWN = "<s>", "</s>", "</s>", "<unk>"
START_OF_TURN, END_OF_TURN = "<|im_start|>", "<|im_end|>"
IMAGE_START, IMAGE, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"
# transformers' processor insists on a token that stands for a video; InternVL2 has none, and never uses this one.
VIDEO_STAND_IN = "<|plugin|>"
NEEDED_TOKENS = (
    BEGIN,
    END,
    UNKNOWN,
    START_OF_TURN,
    END_OF_TURN,
    VIDEO_STAND_IN,
    IMAGE_START,
    IMAGE_END,
    IMAGE,
    *("<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"),
)
NORMAL, USER_DEFINED = 1, 4  # kinds of pieces in sentencepiece_model.proto
BYTE_PAIR = 2  # kind of model there
SPACE = "▁"

# The words with which InternVL2 was trained; another system message takes their place.
SYSTEM = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    f"{{% if messages[0].role != 'system' %}}{{{{ '{START_OF_TURN}system\\n{SYSTEM}{END_OF_TURN}' }}}}{{% endif %}}"
    "{% for message in messages %}"
    f"{{{{ '{START_OF_TURN}' + message.role + '\\n' }}}}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    f"{{% if part.type == 'image' %}}{{{{ '{IMAGE}\\n' }}}}"
    "{% elif part.type == 'text' %}{{ part.text }}"
    "{% else %}{{ raise_exception('InternVL2 takes text and images; send a video as its frames') }}{% endif %}"
    "{% endfor %}{% endif %}"
    f"{{{{ '{END_OF_TURN}' }}}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{START_OF_TURN}assistant\\n' }}}}{{% endif %}}"
)


class UnknownLayout(ValueError):
    """A checkpoint that the converter does not know; converting it would give another model."""


def build_tokenizer(folder: Path, vocabulary: int) -> PreTrainedTokenizerFast:
    """The fast tokenizer of an original InternLM2 checkpoint, with InternVL2's chat template.

    Args:
        vocabulary: rows of the embedding; ids reach up to it.

    Raises:
        FileNotFoundError: `tokenizer.model` or `tokenizer_config.json` is missing.
        UnknownLayout: one of them is damaged or is no InternLM2 tokenizer.
    """
    model = read_model(folder / "tokenizer.model")
    settings = read_object(folder / "tokenizer_config.json")
    added = added_tokens(settings, len(model.pieces), vocabulary)
    fast = fast_tokenizer(model, added)
    if settings.get("add_bos_token", True):
        begin = (BEGIN, fast.token_to_id(BEGIN))
        fast.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[begin])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        padding_side="right",
        extra_special_tokens={
            "start_image_token": IMAGE_START,
            "end_image_token": IMAGE_END,
            "context_image_token": IMAGE,
            "video_token": VIDEO_STAND_IN,
        },
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def read_model(file: Path) -> Any:
    """The model as a protocol buffer: `pieces`, `trainer_spec` and `normalizer_spec`.

    Raises:
        FileNotFoundError: there is no such file.
        UnknownLayout: it is damaged, or its model or preparation of text is not InternLM2's.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; fetch it from the original release")
    model = import_protobuf().ModelProto()
    try:
        model.ParseFromString(file.read_bytes())
    except DecodeError as error:
        raise UnknownLayout(f"{file.name}: no SentencePiece model ({error}); fetch it again") from error
    text = model.normalizer_spec
    rules = {
        "is no byte-pair model with byte fallback": (
            model.trainer_spec.model_type == BYTE_PAIR and model.trainer_spec.byte_fallback
        ),
        "rewrites characters before it encodes": not text.precompiled_charsmap,
        "drops spaces before it encodes": not text.remove_extra_whitespaces,
        "does not write a space as ▁": text.escape_whitespaces,
    }
    if broken := [rule for rule, holds in rules.items() if not holds]:
        raise UnknownLayout(f"{file.name}: {' and '.join(broken)}; InternLM2's is known only otherwise")
    return model


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        UnknownLayout: it holds something else.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; name the folder of a complete original InternVL2 release")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnknownLayout(f"{file.name}: no JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise UnknownLayout(f"{file.name}: holds no JSON object; fetch it again")
    return content


def added_tokens(settings: dict[str, Any], pieces: int, vocabulary: int) -> dict[int, str]:
    """Id → special token, in ascending order.

    Raises:
        UnknownLayout: a needed token is missing, one occurs twice, or the ids leave a gap or reach past the embedding.
    """
    try:
        stated = settings["added_tokens_decoder"].items()
        added = dict(sorted((int(i), str(token["content"])) for i, token in stated))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnknownLayout("tokenizer_config.json: added_tokens_decoder holds no ids of special tokens") from error
    if loose := [token["content"] for _, token in stated if any(map(token.get, ("lstrip", "rstrip", "single_word")))]:
        raise UnknownLayout(f"tokenizer_config.json: special tokens that take text beside them: {', '.join(loose)}")
    if missing := [token for token in NEEDED_TOKENS if token not in added.values()]:
        raise UnknownLayout(f"tokenizer_config.json: special tokens are missing: {', '.join(missing)}")
    if len(set(added.values())) != len(added):
        raise UnknownLayout("tokenizer_config.json: a special token has two ids")
    after = [i for i in added if i >= pieces]
    if after != list(range(pieces, pieces + len(after))):
        raise UnknownLayout(f"tokenizer_config.json: ids after the {pieces} pieces leave a gap: {after}")
    if pieces + len(after) > vocabulary:
        raise UnknownLayout(f"tokenizer: {pieces + len(after)} ids, but the embedding has {vocabulary} rows")
    return added


def fast_tokenizer(model: Any, added: dict[int, str]) -> Tokenizer:
    """Byte-pair encoding over the model's pieces; ids as in the model, with `added` in their places.

    Ids equal SentencePiece's, but for one case: a model that puts a space before the text (InternLM2's does not) puts
    none after a user-defined piece within it, and this does.

    Raises:
        UnknownLayout: two pieces are equal.
    """
    names = [added.get(i, piece.piece) for i, piece in enumerate(model.pieces)]
    ids = {name: i for i, name in enumerate(names)}
    if len(ids) != len(names):
        raise UnknownLayout("tokenizer.model: two pieces are equal")
    plain = {p.piece: p.score for i, p in enumerate(model.pieces) if p.type == NORMAL and i not in added}
    merges = generate_merges({name: ids[name] for name in plain}, plain)
    fast = Tokenizer(models.BPE(ids, merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    prefix = model.normalizer_spec.add_dummy_prefix
    fast.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend(SPACE)] if prefix else []), normalizers.Replace(" ", SPACE)]
    )
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", left=1)] if prefix else []),
        ]
    )
    fast.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in added.values()])
    whole = [p.piece for i, p in enumerate(model.pieces) if p.type == USER_DEFINED and i not in added]
    fast.add_tokens([AddedToken(piece, normalized=False) for piece in whole])
    return fast
