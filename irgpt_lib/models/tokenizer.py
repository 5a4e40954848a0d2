"""The miniature's own tokenizer: the fixed phrases of the study's language are one token each.

A model of a million parameters learns the nine tasks on a CPU only if an answer is a few tokens long. So the pieces
that the task grammars and the captions repeat are single tokens, an option with its letter is one, and numbers are one.
Everything else falls back to words and then to characters, so that any ASCII text survives the round trip.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import product

from jaxtyping import Int
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, tensor
from transformers import PreTrainedTokenizerFast

from irgpt_lib.irtd.record import FRAME
from irgpt_lib.tasks.task import LETTERS

PAD, START, END, UNKNOWN, IMAGE, ANSWER = "<pad>", "<s>", "</s>", "<unk>", "<IMG_CONTEXT>", "<ans>"
SPECIAL = (PAD, START, END, UNKNOWN, IMAGE, ANSWER)
CONTINUED = "##"
LARGEST_NUMBER = 100
LONGEST_PIECE = 400
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}{{ message.content }}<ans>"
    "{% else %}{{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


def coordinates(steps: int) -> list[int]:
    """The `steps + 1` values of 0-1000 that a model with that coordinate grid can write."""
    return [round(FRAME * i / steps) for i in range(steps + 1)]


def snap(text: str, steps: int) -> str:
    """`text` with the numbers of every box `[[..]]` and point `(x, y)` moved to the nearest value of the grid.

    Counts and cell numbers stay as they are. `steps = 1000` changes nothing.
    """

    def move(match: re.Match[str]) -> str:
        return re.sub(
            r"\d+",
            lambda n: str(round(FRAME * round(min(int(n[0]), FRAME) * steps / FRAME) / steps)),
            match[0],
        )

    return re.sub(r"\[\[[\d, ]+\]\]|\(\d+, \d+\)", move, text)


def vocabulary(phrases: Iterable[str], nouns: Sequence[str], steps: int) -> list[str]:
    """All tokens in a fixed order: special, characters, numbers, words, phrases, and `(A) noun` for each letter."""
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    numbers = [str(n) for n in sorted({*range(LARGEST_NUMBER + 1), *coordinates(steps)})]
    options = [f"{letter} {noun}" for letter, noun in product(LETTERS, nouns)]
    words = [*LETTERS, *nouns, *(f" {noun}" for noun in nouns), "yes", "no", ", ", "; "]
    tokens = [
        *SPECIAL,
        *characters,
        *(CONTINUED + c for c in characters),
        *numbers,
        *words,
        *phrases,
        *options,
    ]
    return list(dict.fromkeys(tokens))


def build_tokenizer(phrases: Iterable[str], nouns: Sequence[str], steps: int) -> PreTrainedTokenizerFast:
    """A fast tokenizer in the standard format; `steps` is the coordinate grid of the model that will use it."""
    tokens = vocabulary(phrases, nouns, steps)
    whole = [t for t in tokens if len(t) > 1 and t not in SPECIAL and not t.startswith(CONTINUED) and not t.isdigit()]
    longest_first = sorted(whole, key=lambda t: (-len(t), t))
    pieces = "|".join([*map(re.escape, longest_first), r"\d+", " ?[A-Za-z]+", r"[^A-Za-z\d]"])
    tokenizer = Tokenizer(
        models.WordPiece(
            {token: i for i, token in enumerate(tokens)},
            unk_token=UNKNOWN,
            continuing_subword_prefix=CONTINUED,
            max_input_chars_per_word=LONGEST_PIECE,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pieces), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(CONTINUED, ""), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE, ANSWER],
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def coordinate_ids(tokenizer: PreTrainedTokenizerFast, steps: int) -> Int[Tensor, " k"] | None:
    """The ids of the grid's values in ascending order, or None where a value is not one token of this tokenizer."""
    ids = tokenizer.convert_tokens_to_ids([str(n) for n in coordinates(steps)])
    known = all(i is not None and i != tokenizer.unk_token_id for i in ids)
    return tensor(ids) if known else None
