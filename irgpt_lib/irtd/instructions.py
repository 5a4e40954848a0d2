"""The language model's half of the instruction subset (section 3.3): conversations, descriptions and reasoning about an
image, asked of a model that reads the infrared caption and the boxes and sees no image, as LLaVA did it.

The rule half is the nine tasks' questions (`irgpt_lib.tasks`). Boxes are told in the frame 0-1000. A reply is read
tolerantly, and held to the list of visible-only words: a question about a colour goes with its answer.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from irgpt_lib.irtd.adaptation import BAND_NAMES, Prompt, adapt, plain_reply, refused, visible_only_terms
from irgpt_lib.irtd.captions import RULES
from irgpt_lib.irtd.record import Band, Box, RecordError, Sample, content_hash, frame_1000
from irgpt_lib.irtd.release import IMAGE_TOKEN

Kind = Literal["conversation", "detail", "reasoning"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST_BOXES = 60
IMAGE_WORD = "<image>"


@dataclass(frozen=True)
class Conversation:
    """Turns about one image: pairs of a question and its answer, at least one.

    `by` names the model and, where rules took words out, the rules; `prompt_key` is the key of the request that was
    answered. `removed` are the visible-only terms that were taken out, and the questions that fell with them or had no
    answer, as `question: ...`.
    """

    sample_id: str
    kind: Kind
    turns: tuple[tuple[str, str], ...]
    by: str
    prompt_key: str
    removed: tuple[str, ...] = ()


ASSISTANT = (
    "You write training data for a model that looks at {band} images. You are told what one image shows: a caption, "
    "and objects with their boxes x1, y1, x2, y2, where 0, 0 is the top left and 1000, 1000 the bottom right corner. "
    "Write as somebody who looks at the image: never mention the caption, the boxes or their numbers. A {band} image "
    "shows no colours and no text, so speak of neither. Say nothing that the caption and the boxes do not support."
)
TASKS: dict[str, str] = {
    "conversation": (
        "Write a conversation of three to five turns between a person who asks about the image and an assistant who "
        "answers. Ask about what is there, how many there are, what they do, where they are and how they stand to each "
        "other; ask only what can be answered for certain, and put a question that needs some thought last. Begin "
        "every question with 'Question:' and every answer with 'Answer:', each on a line of its own."
    ),
    "detail": (
        "Describe the image in one paragraph of four to eight sentences: the place as a whole first, then the objects "
        "with their number and position, then what happens between them. Answer with the paragraph alone."
    ),
    "reasoning": (
        "Ask one question about the image that cannot be answered by naming what is seen but needs a conclusion from "
        "it (why something may be so, what may follow, what somebody there should mind), and answer it step by step "
        "from what the image shows. Write 'Question:' and the question, then on a new line 'Answer:' and the answer."
    ),
}
DETAIL_QUESTIONS = (
    "Describe this picture in detail.",
    "What does this infrared image show? Go into detail.",
    "Give a full description of the scene in this image.",
    "Please tell me everything that can be made out in this picture.",
    "Write a detailed paragraph about this infrared image.",
)

LABEL = re.compile(
    r"^[\s>#*_-]*(?:\d+[.)]\s*)?[*_]*(?:(?P<question>questions?|q|user|human|person)|(?P<answer>answers?|a|assistant|gpt))"
    r"\s*\d*[*_]*\s*[:：][*_]*\s*",
    re.IGNORECASE | re.MULTILINE,
)
SEPARATOR = re.compile(r"^\s*(?:={3,}|-{3,}|\*{3,})\s*$", re.MULTILINE)


def box_line(box: Box, width: int, height: int) -> str:
    """`car: 10, 20, 300, 400`, in the frame 0-1000."""
    corners = (
        frame_1000(box.x1, width),
        frame_1000(box.y1, height),
        frame_1000(box.x2, width),
        frame_1000(box.y2, height),
    )
    return f"{box.category}: {', '.join(map(str, corners))}"


def context(sample: Sample) -> str:
    """What the model is told of a sample: its caption, its boxes from left to right (the largest 60 where there are
    more, of the rest the number), and how many objects are marked by points.

    Raises:
        RecordError: `nothing to ask about` where there is neither a caption nor an object.
    """
    if not sample.caption and not sample.boxes and not sample.points:
        raise RecordError("nothing to ask about", f"{sample.sample_id} has no caption and no object")
    lines = [f"Caption: {' '.join(sample.caption.split())}"] if sample.caption else []
    if sample.boxes:
        largest = sorted(sample.boxes, key=lambda box: -box.area)[:MOST_BOXES]
        lines.append("Objects:")
        lines += [box_line(box, sample.width, sample.height) for box in sorted(largest, key=lambda box: box.centre)]
        if left_out := len(sample.boxes) - len(largest):
            lines.append(f"and {left_out} smaller objects")
    for category, count in sorted(Counter(point.category for point in sample.points).items()):
        lines.append(f"{category}: {count} in all")
    return "\n".join(lines)


def instruction_prompt(sample: Sample, kind: Kind) -> Prompt:
    """What to ask a language model for, about one sample.

    Raises:
        RecordError: see `context`.
    """
    return Prompt(ASSISTANT.format(band=BAND_NAMES[sample.band]), f"{context(sample)}\n\n{TASKS[kind]}")


def detail_question(sample_id: str) -> str:
    """The question that a description answers: one of `DETAIL_QUESTIONS`, always the same for one sample."""
    return DETAIL_QUESTIONS[int(content_hash(sample_id.encode())[:8], 16) % len(DETAIL_QUESTIONS)]


def labelled_turns(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Question and answer pairs of a text that labels them (`Question:`, `Q1:`, `**Answer:**`, `User:`), and the
    questions that no answer follows. What stands before the first question is left out."""
    text = SEPARATOR.sub("", text)
    labels = list(LABEL.finditer(text))
    turns: list[tuple[str, str]] = []
    unanswered: list[str] = []
    question = ""
    ends = [label.start() for label in labels[1:]] + [len(text)]
    for label, end in zip(labels, ends, strict=False):
        said = " ".join(text[label.end() : end].split())
        if label["question"]:
            unanswered += [question] if question else []
            question = said
        elif question and said:
            turns.append((question, said))
            question = ""
    return turns, unanswered + ([question] if question else [])


def holding_turns(turns: Sequence[tuple[str, str]], band: Band) -> tuple[list[tuple[str, str]], list[str], bool]:
    """The turns that hold for infrared, what was taken out of them, and whether rules rewrote an answer.

    A question with a visible-only word falls with its answer; an answer is rewritten (`adapt`) and falls with its
    question where nothing is left of it.
    """
    kept: list[tuple[str, str]] = []
    removed: list[str] = []
    rewritten = False
    for question, answer in turns:
        adapted = adapt(answer, band)
        removed += adapted.removed
        if terms := visible_only_terms(question, band):
            removed += [*terms, f"question: {question}"]
        elif not adapted.text:
            removed.append(f"question: {question}")
        else:
            rewritten |= bool(adapted.removed)
            kept.append((question, adapted.text))
    return kept, removed, rewritten


def read_reply(
    sample: Sample, kind: Kind, reply: str, by: str, prompt_key: str, *, cut_off: bool = False
) -> Conversation:
    """The turns of a model's reply to `instruction_prompt`.

    `by` names the model, `prompt_key` the request; `cut_off` says that the reply ended at the token limit, and its
    unfinished last sentence is left out.

    Raises:
        RecordError: `empty reply`, `refusal`, `no question and answer`, `image token in a reply`, or `only visible-only
            turns`, with the beginning of the reply in the detail.
    """
    text = plain_reply(reply, cut_off=cut_off)
    beginning = f"{sample.sample_id}, {kind}: {reply.strip()!r:.80}"
    if not text:
        raise RecordError("empty reply", beginning)
    if refused(text):
        raise RecordError("refusal", beginning)
    if IMAGE_WORD in text:
        raise RecordError("image token in a reply", beginning)
    if kind == "detail":
        found, unanswered = [(detail_question(sample.sample_id), " ".join(text.split()))], []
    else:
        found, unanswered = labelled_turns(text)
    if not found:
        raise RecordError("no question and answer", beginning)
    turns, removed, rewritten = holding_turns(found, sample.band)
    if not turns:
        raise RecordError("only visible-only turns", beginning)
    removed += [f"question: {question}" for question in unanswered]
    writer = f"{by} + {RULES}" if rewritten else by
    return Conversation(sample.sample_id, kind, tuple(turns), writer, prompt_key, tuple(dict.fromkeys(removed)))


# LLaVA's turn lists


def to_llava(conversation: Conversation, image: str) -> dict[str, Any]:
    """LLaVA's record, as the released instruction set has it: `id`, `image` (a list with one path) and `conversations`,
    the first question after the image token; with `kind`, `by`, `prompt_key` and `removed`, which its readers pass
    over. The id is `<sample>#<kind>`."""
    turns: list[dict[str, str]] = []
    for question, answer in conversation.turns:
        value = question if turns else IMAGE_TOKEN + question
        turns += [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
    return {
        "id": f"{conversation.sample_id}#{conversation.kind}",
        "image": [image],
        "conversations": turns,
        "kind": conversation.kind,
        "by": conversation.by,
        "prompt_key": conversation.prompt_key,
        "removed": list(conversation.removed),
    }


def from_llava(record: Any) -> tuple[Conversation, str]:
    """The conversation of a record of `to_llava`, and its image path.

    The image token may stand before or after the first question, as in LLaVA's own data.

    Raises:
        RecordError: `malformed record`; the detail names the field.
    """
    if not isinstance(record, dict):
        raise malformed(f"expected an object, found {record!r:.80}")
    fields = {name: record.get(name) for name in ("id", "by", "prompt_key")}
    if wrong := [name for name, value in fields.items() if not isinstance(value, str)]:
        raise malformed(f"lacks the text {', '.join(wrong)}")
    if record.get("kind") not in KINDS:
        raise malformed(f"kind is {record.get('kind')!r:.80}; known: {', '.join(KINDS)}")
    removed = record.get("removed", [])
    if not isinstance(removed, list) or not all(isinstance(text, str) for text in removed):
        raise malformed(f"removed must be a list of texts, found {removed!r:.80}")
    images = [record["image"]] if isinstance(record.get("image"), str) else record.get("image")
    if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], str):
        raise malformed(f"image must be one path, found {record.get('image')!r:.80}")
    conversation = Conversation(
        sample_id=fields["id"].removesuffix(f"#{record['kind']}"),
        kind=record["kind"],
        turns=llava_turns(record.get("conversations")),
        by=fields["by"],
        prompt_key=fields["prompt_key"],
        removed=tuple(removed),
    )
    return conversation, images[0]


def llava_turns(values: Any) -> tuple[tuple[str, str], ...]:
    """Question and answer pairs of LLaVA's `conversations`.

    Raises:
        RecordError: `malformed record`: not human and gpt in turn, an empty text, or an image token that is missing or
            out of its place.
    """
    if not isinstance(values, list) or not values or not all(isinstance(value, dict) for value in values):
        raise malformed(f"conversations must be a list of turns, found {values!r:.80}")
    speakers = [value.get("from") for value in values]
    if len(values) % 2 or speakers != ["human", "gpt"] * (len(values) // 2):
        raise malformed(f"human and gpt must speak in turn, found {speakers!r:.80}")
    texts = [value.get("value") for value in values]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise malformed("a turn has no text")
    first = texts[0].removeprefix(IMAGE_TOKEN).removesuffix("\n" + IMAGE_WORD)
    if first == texts[0] or not first.strip() or any(IMAGE_WORD in text for text in [first, *texts[1:]]):
        raise malformed(f"the image token must stand once, before or after the first question: {texts[0]!r:.80}")
    texts[0] = first
    return tuple(zip(texts[::2], texts[1::2], strict=True))


def malformed(detail: str) -> RecordError:
    return RecordError("malformed record", detail)


def to_json(conversations: Sequence[tuple[Conversation, str]]) -> str:
    """A JSON list of LLaVA records, of conversations with their image paths, in the order given."""
    return json.dumps([to_llava(*pair) for pair in conversations], indent=1, ensure_ascii=False) + "\n"
