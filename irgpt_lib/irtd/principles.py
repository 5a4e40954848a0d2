"""The paper's two principles of the dataset as checks: authenticity of the images, semantic alignment of the captions.

Both look for contradictions and prove nothing: an image without a trace of a generator may still be generated, and a
caption may be wrong about what no label counts.
"""

import math
import re
import struct
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from irgpt_lib.irtd.captions import SPOKEN, plural
from irgpt_lib.irtd.near_duplicates import gray_thumbnail
from irgpt_lib.irtd.record import Sample, open_image
from irgpt_lib.irtd.sources.source import Source

# Authenticity

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TEXT = ("tEXt", "zTXt", "iTXt")
# Keywords under which image generators leave their settings in a PNG.
PNG_KEYWORDS = frozenset({"parameters", "prompt", "workflow", "dream", "sd-metadata", "invokeai_metadata"})
GENERATORS = (
    *("stable diffusion", "stablediffusion", "comfyui", "automatic1111", "invokeai", "novelai", "midjourney"),
    *("dall-e", "dall·e", "adobe firefly", "leonardo.ai", "ideogram", "dreamstudio", "fooocus"),
)
GENERATOR_PATTERN = re.compile("|".join(map(re.escape, GENERATORS)).encode())
SETTINGS_PATTERN = re.compile(rb"steps: \d+, sampler: ")
# IPTC's terms trainedAlgorithmicMedia and compositeWithTrainedAlgorithmicMedia.
SOURCE_TYPE = b"trainedalgorithmicmedia"
CREDENTIALS_CHUNK = "caBX"
MOST_TEXT_BYTES = 2**20
GRAY_COPY_CORRELATION = 0.999
# A copy is one at any size, so a look at small images spares the large ones.
SMALL_CORRELATION = 0.99


class Fault(NamedTuple):
    """One contradiction to a principle: whose, of which kind, and what was found."""

    sample_id: str
    kind: str
    detail: str


def authenticity_faults(samples: Iterable[Sample], sources: Mapping[str, Source]) -> list[Fault]:
    """What speaks against samples that are marked as authentic infrared images.

    Kinds: `source` (registered as not authentic), `generator` (a trace of an image generator in the infrared or the
    visible file's metadata, see `generator_trace`), `gray copy` (the infrared image is the visible one turned gray).

    Raises:
        RecordError: the reasons of `open_image`.
    """
    found = []
    for sample in samples:
        if not sample.authentic:
            continue
        source = sources.get(sample.source)
        if source is not None and not source.authentic:
            found.append(Fault(sample.sample_id, "source", f"{source.name} is registered as not authentic"))
        for name, data in (("infrared", sample.infrared), ("visible", sample.visible)):
            if trace := generator_trace(data):
                found.append(Fault(sample.sample_id, "generator", f"{name} image: {trace}"))
        if sample.visible and (correlation := gray_correlation(sample)) > GRAY_COPY_CORRELATION:
            detail = f"correlation {correlation:.4f} of infrared with gray visible pixels"
            found.append(Fault(sample.sample_id, "gray copy", detail))
    return found


def generator_trace(data: bytes) -> str:
    """What the metadata of a PNG or JPEG file say of an image generator, empty where they say nothing.

    Looked for are the text keywords of Stable Diffusion's front ends (`parameters`, `prompt`, `workflow` ...), names of
    generators and their settings anywhere in text, EXIF or XMP, IPTC's digital source type trainedAlgorithmicMedia, and
    content credentials (C2PA), which an infrared camera does not write. Pixels are not looked at.
    """
    for name, content in metadata(data):
        keyword = content.partition(b"\0")[0].decode("latin-1").lower()
        # EXIF may hold text in two bytes a letter.
        text = content.replace(b"\0", b"").lower()
        if name in PNG_TEXT and keyword in PNG_KEYWORDS:
            return f"PNG text {keyword!r}"
        if SOURCE_TYPE in text:
            return f"digital source type trainedAlgorithmicMedia in {name}"
        if name == CREDENTIALS_CHUNK or (name == "APP11" and b"c2pa" in text):
            return f"content credentials (C2PA) in {name}"
        if match := GENERATOR_PATTERN.search(text) or SETTINGS_PATTERN.search(text):
            return f"{match[0].decode('utf-8')!r} in {name}"
    return ""


def metadata(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The parts of a PNG or JPEG file that hold no pixels, by the name of their chunk or segment.

    A damaged file ends them early; that it cannot be decoded is for `check` to say.
    """
    return png_chunks(data) if data.startswith(PNG_SIGNATURE) else jpeg_segments(data)


def png_chunks(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Chunks but the pixels', compressed text expanded up to a mebibyte."""
    place = len(PNG_SIGNATURE)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind != b"IDAT":
            content = data[place + 8 : place + 8 + length]
            yield kind.decode("latin-1"), expanded(kind, content)
        place += length + 12


def expanded(kind: bytes, content: bytes) -> bytes:
    """A text chunk with its text in the clear (PNG specification, sections 11.3.3.3 and 11.3.3.4)."""
    keyword, _, rest = content.partition(b"\0")
    if kind == b"zTXt":
        packed = rest[1:]
    elif kind == b"iTXt" and rest[:1] == b"\1":
        packed = rest[2:].split(b"\0", 2)[-1]
    else:
        return content
    try:
        return keyword + b"\0" + zlib.decompressobj().decompress(packed, MOST_TEXT_BYTES)
    except zlib.error:
        return content


def jpeg_segments(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Application segments and comments before the first scan."""
    place = 2 if data.startswith(b"\xff\xd8") else len(data)
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        marker, (length,) = data[place + 1], struct.unpack_from(">H", data, place + 2)
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            yield f"APP{marker - 0xE0}" if marker != 0xFE else "COM", data[place + 4 : place + 2 + length]
        place += 2 + max(length, 2)


def gray_correlation(sample: Sample) -> float:
    """Pearson's correlation, without its sign, of the infrared pixels with the visible ones turned gray; 0 for flat
    images. The visible image is brought to the infrared one's size. Where small copies of both correlate by less than
    0.99, that is the result.

    Raises:
        RecordError: the reasons of `open_image`.
    """
    small = gray_thumbnail(sample.infrared)
    rough = correlation(np.asarray(small), np.asarray(gray_thumbnail(sample.visible).resize(small.size)))
    if rough < SMALL_CORRELATION:
        return rough
    infrared = open_image(sample.infrared, sample.sample_id).convert("L")
    visible = open_image(sample.visible, f"visible pair of {sample.sample_id}").convert("L").resize(infrared.size)
    return correlation(np.asarray(infrared), np.asarray(visible))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Absolute value of Pearson's correlation of two arrays of one shape, 0 where one is constant."""
    one, other = one - one.mean(dtype=float), other - other.mean(dtype=float)
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return abs(float((one * other).sum())) / norm if norm else 0.0


# Semantic alignment

SYNONYMS = {"person": ("pedestrian", "human"), "bicycle": ("bike",), "motorcycle": ("motorbike",)}
FURTHER_PLURALS = {"person": ("persons",)}
NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
NUMBERS = {word: number for number, word in enumerate(NUMBER_WORDS)}
# The fewest that words for an open number may stand for.
AT_LEAST = {
    **{"some": 1, "another": 1, "a couple of": 2, "a pair of": 2, "a few": 2, "multiple": 2, "a group of": 2},
    **{"several": 3, "a number of": 3, "many": 5, "numerous": 5, "a crowd of": 5, "dozens of": 24},
}
OPEN_PHRASES = {tuple(phrase.split()): fewest for phrase, fewest in AT_LEAST.items()}
ABOUT = frozenset({"about", "around", "approximately", "roughly", "nearly", "almost", "some"})
ABOUT_SHARE = 0.2
LOWER_BOUNDS = (("at", "least"), ("more", "than"), ("no", "fewer", "than"), ("over",))
UPPER_BOUNDS = (("at", "most"), ("fewer", "than"), ("no", "more", "than"), ("up", "to"))
ARTICLES = frozenset({"a", "an"})
NEGATIONS = frozenset({"no", "without", "neither", "nor"})
OTHERS = frozenset({"other", "further", "additional", "more"})
VERBS = frozenset({"is", "are", "was", "were", "can"})
# None of these stands between a number and the noun that it counts.
BREAKS = (
    VERBS
    | NEGATIONS
    | {
        *(
            "the",
            "and",
            "or",
            "of",
            "in",
            "on",
            "at",
            "with",
            "near",
            "by",
            "to",
            "from",
            "for",
            "be",
            "has",
            "have",
            "not",
        ),
        *("that", "which", "who", "while", "along", "beside", "behind", "between", "above", "under", "below", "around"),
        *("across", "into", "there", "this", "these", "each", "every"),
    }
)
# What a noun before one of these names is no thing of its category: a car park, a bus stop.
NAMED_AFTER = frozenset({"park", "parking", "lot", "lane", "lanes", "rack", "racks", "path", "crossing", "stop"}) | {
    *("station", "area", "zone", "door", "window"),
}
ADJECTIVES = 3
TOKEN = re.compile(r"[a-z]+(?:[-'][a-z]+)*|\d+(?:,\d{3})*(?:\.\d+)?|[^\sa-z\d]")

Nouns = dict[tuple[str, ...], tuple[str, bool, bool]]


class Claim(NamedTuple):
    """A caption says that `low` to `high` of a category are seen, in these words; `adds` is how many more than those of
    other claims it may mean."""

    category: str
    low: int
    high: float
    adds: float
    words: str


class Quantity(NamedTuple):
    """What stands before a noun: `low` to `high`, what it `adds`, and the place of its first word."""

    low: int
    high: float
    adds: float
    start: int


def alignment_faults(sample: Sample, categories: Collection[str] = ()) -> list[str]:
    """Where the caption's categories and counts contradict the boxes and points, one sentence each.

    Judged are categories that have a box or point, that `counted` names, or that `categories` lists, which must be
    those of which the source labels every instance. Understood are singular and plural, digits and number words to
    twenty, `no`, and a few synonyms; `several` is 3 or more, `many` 5 or more and so on (`AT_LEAST`), `about` allows a
    fifth. Several numbers of one category agree where one of them, or their sum, is the number of labels: the others
    then speak of a part, and a part is never more than all. Where labels leave instances out (facts `annotated`,
    `dont_care`, `crowd`), only a caption that tells of fewer than are labelled is a fault; where they do not tell
    instances apart (`instances: unknown`), only one that denies a category.
    """
    counts = Counter(thing.category for thing in (*sample.boxes, *sample.points))
    judged = sorted({*counts, *categories, sample.counted} - {""})
    made = claims(sample.caption.lower(), judged)
    if sample.facts.get("instances") == "unknown":
        made = [claim for claim in made if claim.high == 0]
    complete = not sample.facts.keys() & {"annotated", "dont_care", "crowd"}
    faults = []
    for category in judged:
        wrong = contradicted([claim for claim in made if claim.category == category], counts[category], complete)
        faults += [f"{words!r}: {counts[category]} {category} labelled" for words in wrong]
    return faults


def contradicted(made: Sequence[Claim], count: int, complete: bool) -> list[str]:
    """The words of the claims of one category that `count` labels contradict; `complete` labels leave none out."""
    wrong = [claim for claim in made if (claim.low > count and complete) or (claim.high == 0 and count)]
    numbered = [claim for claim in made if 0 < claim.high < math.inf]
    if wrong or not numbered or any(claim.low <= count <= claim.high for claim in numbered):
        return [claim.words for claim in wrong]
    least = sum(claim.low for claim in numbered) if complete else 0
    most = sum(claim.adds for claim in made)
    return [] if least <= count <= most else [" + ".join(claim.words for claim in numbered)]


def claims(text: str, categories: Iterable[str]) -> list[Claim]:
    """What a text in lower case says of how many there are of the categories, in its order."""
    nouns = nouns_of(categories)
    tokens = TOKEN.findall(text)
    longest = max(map(len, nouns), default=0)
    found, place = [], 0
    while place < len(tokens):
        phrases = (tuple(tokens[place : place + size]) for size in range(longest, 0, -1))
        noun = next((phrase for phrase in phrases if phrase in nouns), None)
        end = place + len(noun or "x")
        if noun and (claim := claim_at(tokens, place, end, nouns)):
            found.append(claim)
        place = end
    return found


def nouns_of(categories: Iterable[str]) -> Nouns:
    """The words for each category: its name, whether they can be singular, whether plural."""
    nouns: Nouns = {}
    for category in categories:
        spoken = SPOKEN.get(category, category)
        singulars = {spoken, *SYNONYMS.get(category, ())}
        plurals = {*map(plural, singulars), *FURTHER_PLURALS.get(category, ())}
        for words in singulars | plurals:
            nouns[tuple(TOKEN.findall(words))] = (category, words in singulars, words in plurals)
    return nouns


def claim_at(tokens: list[str], start: int, end: int, nouns: Nouns) -> Claim | None:
    """The claim that the noun `tokens[start:end]` makes with the words around it; `None` where it names something else
    or its number does not fit (`3 car doors`)."""
    category, singular, many = nouns[tuple(tokens[start:end])]
    after = tokens[end : end + 3]
    if after[:1] and after[0] in NAMED_AFTER:
        return None
    quantity = quantity_before(tokens, start)
    if quantity is None:
        first = negated_from(tokens, start)
        if first is None and not denied(after):
            return Claim(category, 1, math.inf, 0, " ".join(tokens[start:end]))
        if first is not None and OTHERS & set(tokens[first:start]):
            return None
        begin, stop = (start, end + 2) if first is None else (first, end)
        return Claim(category, 0, 0, 0, " ".join(tokens[begin:stop]))
    if not (singular if quantity.low == 1 else many) and quantity.high < math.inf:
        return None
    words = " ".join(tokens[quantity.start : end])
    return Claim(category, quantity.low, quantity.high, quantity.adds, words)


def quantity_before(tokens: list[str], noun: int) -> Quantity | None:
    """The quantity of the noun at that place, with up to three adjectives between; `None` where there is none."""
    for last in range(noun - 1, max(noun - 2 - ADJECTIVES, -1), -1):
        if quantity := open_phrase(tokens, last) or number(tokens, last):
            return quantity
        if tokens[last] in ARTICLES:
            only = "single" in tokens[last:noun]
            return Quantity(1, 1 if only else math.inf, 1, last)
        if tokens[last] in BREAKS or not tokens[last][0].isalpha():
            return None
    return None


def open_phrase(tokens: list[str], last: int) -> Quantity | None:
    """`several`, `a couple of` and the like, ending at that place."""
    for size in (3, 2, 1):
        start = last + 1 - size
        if start >= 0 and (fewest := OPEN_PHRASES.get(tuple(tokens[start : last + 1]))):
            return Quantity(fewest, math.inf, math.inf, start)
    return None


def number(tokens: list[str], last: int) -> Quantity | None:
    """A number at that place with the words that bound it: `about 30`, `at least two`, `three or four`."""
    value = number_at(tokens, last)
    if value is None:
        return None
    for bound in (*LOWER_BOUNDS, *UPPER_BOUNDS):
        start = last - len(bound)
        if start >= 0 and tuple(tokens[start:last]) == bound:
            lower = bound in LOWER_BOUNDS
            return Quantity(value if lower else 0, math.inf if lower else value, math.inf if lower else value, start)
    if last >= 2 and tokens[last - 1] in ("to", "or", "-") and (other := number_at(tokens, last - 2)) is not None:
        return Quantity(min(other, value), max(other, value), max(other, value), last - 2)
    if last and tokens[last - 1] in ABOUT:
        slack = math.ceil(ABOUT_SHARE * value)
        return Quantity(max(value - slack, 0), value + slack, value + slack, last - 1)
    return Quantity(value, value, value, last)


def number_at(tokens: list[str], place: int) -> int | None:
    """The whole number that a token is, in digits or as a word."""
    digits = tokens[place].replace(",", "")
    return int(digits) if digits.isdecimal() else NUMBERS.get(tokens[place])


def negated_from(tokens: list[str], noun: int) -> int | None:
    """The place of the `no` or `without` that the noun stands under, also as a later one of a list (`no people, cars or
    dogs`); `None` where there is none."""
    listed = {"or", "nor"} & set(tokens[noun - 1 : noun + 3])
    for place in range(noun - 1, -1, -1):
        if tokens[place] in NEGATIONS:
            return place
        passed = tokens[place] == "or" or (tokens[place] == "," and listed)
        if not passed and (tokens[place] in BREAKS or not tokens[place][0].isalpha()):
            return None
    return None


def denied(after: Sequence[str]) -> bool:
    """Whether the words after a noun deny it: `are not visible`, `cannot be seen`, `are absent`."""
    return after[:1] == ["cannot"] or (len(after) > 1 and after[0] in VERBS and after[1] in ("not", "absent"))
