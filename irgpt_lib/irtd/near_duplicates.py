"""Near-duplicates by perceptual hash: what must share a split, what a video repeats, what leaks between splits.

The hash is the 64-bit DCT hash of Zauner's thesis (2010) as the library ImageHash computes it: the signs, against their
median, of the 8 x 8 lowest frequencies of a 32 x 32 gray image. It sees through encoding, scale and brightness, not
through a flip or a strong crop; two scenes of one camera can be near each other, two views of one scene far apart.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import imagehash
import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64, UInt64
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from irgpt_lib.irtd.record import FORMATS, MAX_PIXELS, RecordError, Sample, content_hash
from irgpt_lib.irtd.sources.files import decoding

NEAR_DUPLICATE = "near-duplicate"  # the reason for which a sample is dropped
HASH_BITS = 64
MAX_DISTANCE = 16
# A hash has 32 bits set unless many frequencies tie at the median, as those of an empty image do.
FEWEST_BITS = 24
FLAT_HASH = "0" * (HASH_BITS // 4)
FLAT_GRAY_LEVELS = 1.0
THUMBNAIL = 64
# So many bands of a hash are sure to be untouched by the bits that differ; their joint value is the key to look up.
SHARED_BANDS = 2
EXAMPLES = 4


def gray_thumbnail(data: bytes) -> Image.Image:
    """The image in 8-bit gray, its shorter side 64-127 pixels where the original has 64 or more.

    A JPEG is decoded at a fraction of its size (DCT scaling), which is most of the time saved.

    Raises:
        RecordError: `empty image`, `image too large` or `unreadable image`.
    """
    if not data:
        raise RecordError("empty image", "no bytes to hash")
    with decoding("image to hash"):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise RecordError("image too large", f"{image.width}x{image.height} pixels")
        image.draft("L", (THUMBNAIL, THUMBNAIL))
        gray = image.convert("L")
    return gray.reduce(max(min(gray.size) // THUMBNAIL, 1))


def perceptual_hash(data: bytes) -> str:
    """The 64-bit perceptual hash of an encoded image, 16 hexadecimal digits.

    An image whose gray values differ by less than one level (standard deviation of the thumbnail) has nothing to hash:
    its hash is all zeros, which `near_duplicates` compares with nothing.

    Raises:
        RecordError: the reasons of `gray_thumbnail`.
    """
    gray = gray_thumbnail(data)
    if np.asarray(gray).std() < FLAT_GRAY_LEVELS:
        return FLAT_HASH
    return str(imagehash.phash(gray))


def as_integers(hashes: Iterable[str]) -> UInt64[np.ndarray, " n"]:
    """Hexadecimal hashes as integers.

    Raises:
        ValueError: one is not 16 hexadecimal digits; an empty one was never computed.
    """
    values = []
    for digits in hashes:
        if len(digits) != len(FLAT_HASH):
            raise ValueError(f"{digits!r} is no perceptual hash of {len(FLAT_HASH)} hexadecimal digits")
        values.append(int(digits, 16))
    return np.array(values, dtype=np.uint64)


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """Which of n hashes lie within `distance` bits of each other.

    `values` are the distinct hashes in rising order; `value_of` gives each sample's place among them, -1 where its hash
    is flat; `flat` counts these. `pairs` are the places of two distinct values within the distance, the lower first:
    all of them, and each once. Samples of equal hash share a value, so a camera that stands still costs no pairs.
    """

    distance: int
    values: UInt64[np.ndarray, " u"]
    value_of: Int64[np.ndarray, " n"]
    pairs: Int64[np.ndarray, "p 2"]
    flat: int

    def sample_pairs(self) -> Int64[np.ndarray, "q 2"]:
        """Pairs of samples that connect whatever is near: each sample with the first of its hash, and the first samples
        of two near hashes. Fewer than all near pairs, and in the same clusters."""
        compared = np.flatnonzero(self.value_of >= 0)
        first = np.full(len(self.values), len(self.value_of))
        np.minimum.at(first, self.value_of[compared], compared)
        leaders = first[self.value_of[compared]]
        again = leaders != compared
        same = np.stack([leaders[again], compared[again]], axis=1)
        near = np.sort(first[self.pairs], axis=1)
        return np.concatenate([same, near]).astype(np.int64)


def near_duplicates(hashes: UInt64[np.ndarray, " n"], distance: int) -> NearDuplicates:
    """All pairs of hashes that differ in at most `distance` bits; exact, by multi-index hashing (Norouzi et al. 2012).

    Of `distance + 2` bands of bits, at least two are the same in two hashes that near: only hashes that share the value
    of some two bands are compared. Memory is O(n) beside the pairs themselves. Hashes of flat images (fewer than 24
    bits set) are not compared: they are alike whatever the images show.

    Raises:
        ValueError: `distance` is not 0-16.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(f"a distance of {distance} bits; 0 to {MAX_DISTANCE} can be looked up")
    told = np.bitwise_count(hashes) >= FEWEST_BITS
    values, inverse = np.unique(hashes[told], return_inverse=True)
    value_of = np.full(len(hashes), -1, dtype=np.int64)
    value_of[told] = inverse
    found = [pairs for key in band_keys(values, distance) for pairs in near_within_buckets(values, key, distance)]
    pairs = np.unique(np.concatenate([*found, np.empty((0, 2), np.int64)]), axis=0)
    return NearDuplicates(distance, values, value_of, pairs, int((~told).sum()))


def band_keys(values: UInt64[np.ndarray, " u"], distance: int) -> Iterator[UInt64[np.ndarray, " u"]]:
    """The values with all but two of their `distance + 2` bands blanked, for each choice of the two."""
    edges = np.linspace(0, HASH_BITS, distance + SHARED_BANDS + 1).round().astype(int).tolist()
    bands = [((1 << high) - 1) ^ ((1 << low) - 1) for low, high in zip(edges, edges[1:], strict=False)]
    for chosen in combinations(bands, SHARED_BANDS):
        yield values & np.uint64(sum(chosen))


def near_within_buckets(
    values: UInt64[np.ndarray, " u"], key: UInt64[np.ndarray, " u"], distance: int
) -> Iterator[Int64[np.ndarray, "p 2"]]:
    """The pairs of equal `key` within the distance, lower place first."""
    order = np.argsort(key, kind="stable")
    sorted_key, sorted_values = key[order], values[order]
    left, step = np.arange(len(order)), 1
    # Each round compares every value with the one `step` places further in its bucket, until no bucket is that long.
    while len(left := left[left < len(order) - step]):
        left = left[sorted_key[left] == sorted_key[left + step]]
        near = left[np.bitwise_count(sorted_values[left] ^ sorted_values[left + step]) <= distance]
        if len(near):
            yield np.sort(np.stack([order[near], order[near + step]], axis=1), axis=1)
        step += 1


def merge_groups(groups: Sequence[str], pairs: Int64[np.ndarray, "p 2"]) -> list[str]:
    """A group for each sample such that paired samples share it: of all groups that pairs connect, directly or through
    others, the first by name. `pairs` are places of samples, as `NearDuplicates.sample_pairs` gives them.

    Raises:
        ValueError: a sample has no group; it would be joined to all others without one.
    """
    if not all(groups):
        raise ValueError("a sample without a group; give it its own id as group")
    names, member_of = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    edges = member_of[pairs]
    size = (len(names), len(names))
    graph = coo_array((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), shape=size)
    _, component = connected_components(graph, directed=False)
    # names are sorted, so the first of a component is its canonical one
    _, first = np.unique(component, return_index=True)
    canonical = names[first[component]]
    return [str(canonical[member]) for member in member_of]


def representatives(near: NearDuplicates, within: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Which samples stay when near-duplicates are dropped: true for a sample unless one before it that stays has the
    same key of `within` (a source or a sequence) and a hash within the distance.

    Each dropped sample is near one that is kept. Clusters are not chained: a slow pan keeps a frame whenever it has
    moved further than the distance from all kept ones. Samples with a flat hash stay.
    """
    neighbours: list[list[int]] = [[] for _ in near.values]
    for low, high in near.pairs.tolist():
        neighbours[low].append(high)
        neighbours[high].append(low)
    kept_values: dict[str, set[int]] = {}
    keep = np.ones(len(near.value_of), dtype=bool)
    for place, (value, key) in enumerate(zip(near.value_of.tolist(), within, strict=True)):
        kept = kept_values.setdefault(key, set())
        if value < 0:
            continue
        if value in kept or not kept.isdisjoint(neighbours[value]):
            keep[place] = False
        else:
            kept.add(value)
    return keep


class Leak(NamedTuple):
    """Content in more than one split: what `kind` of content, its name, the splits, and up to four samples or questions
    that share it."""

    kind: str
    content: str
    splits: tuple[str, ...]
    examples: tuple[str, ...]


def leak_columns(samples: Iterable[Sample]) -> pd.DataFrame:
    """What the leak test needs of each sample, without its images, so that a stream of any length fits in memory.

    Columns: sample_id, source, split, group, infrared and visible (SHA-256 of the bytes; empty where there is no
    visible image), perceptual_hash (computed where the sample has none), identities (tuple; whose crops a montage
    shows). A simulated identity names what a figure wears and no person, so it is left out.

    Raises:
        RecordError: the reasons of `perceptual_hash`.
    """
    rows = [
        {
            "sample_id": sample.sample_id,
            "source": sample.source,
            "split": sample.split,
            "group": sample.group or sample.sample_id,
            "infrared": content_hash(sample.infrared),
            "visible": content_hash(sample.visible) if sample.visible else "",
            "perceptual_hash": sample.perceptual_hash or perceptual_hash(sample.infrared),
            "identities": tuple(sorted({box.identity for box in sample.boxes if box.identity and sample.authentic})),
        }
        for sample in samples
    ]
    return pd.DataFrame(rows, columns=LEAK_COLUMNS)


LEAK_COLUMNS = ["sample_id", "source", "split", "group", "infrared", "visible", "perceptual_hash", "identities"]


def leaks(columns: pd.DataFrame, distance: int, questions: pd.DataFrame | None = None) -> list[Leak]:
    """Everything that stands in two splits; empty for a sound dataset.

    `columns` are those of `leak_columns`. Tested are, in this order: sample ids, groups, infrared and visible images by
    SHA-256, identities of persons (within one source), perceptual hashes within `distance` bits, and of `questions`
    (columns question_id, sample_id, split) the ids and whether each stands in its sample's split.

    Raises:
        ValueError: `distance` is not 0-16, or a perceptual hash is none.
    """
    found: list[Leak] = []
    for kind in ("sample_id", "group", "infrared", "visible"):
        found += shared(kind, columns.loc[columns[kind] != "", [kind, "split", "sample_id"]])
    people = columns[["source", "identities", "split", "sample_id"]].explode("identities").dropna(subset="identities")
    people["identity"] = people["source"].astype(str) + "/" + people["identities"].astype(str)
    found += shared("identity", people[["identity", "split", "sample_id"]])
    found += near_leaks(columns, distance)
    if questions is not None:
        found += question_leaks(columns, questions)
    return found


def shared(kind: str, table: pd.DataFrame) -> list[Leak]:
    """The contents (first column of three) that stand in more than one split (second); the third names the rows."""
    table = table.set_axis(["content", "split", "name"], axis=1)
    many = table.groupby("content")["split"].transform("nunique") > 1
    return [
        Leak(kind, str(content), tuple(sorted(set(rows["split"]))), tuple(rows["name"][:EXAMPLES]))
        for content, rows in table[many].groupby("content")
    ]


def near_leaks(columns: pd.DataFrame, distance: int) -> list[Leak]:
    """Equal perceptual hashes, then pairs of near ones, whose samples stand in different splits."""
    near = near_duplicates(as_integers(columns["perceptual_hash"]), distance)
    told = columns.assign(value=near.value_of)
    told = told[told["value"] >= 0]
    found = shared("perceptual_hash", told[["perceptual_hash", "split", "sample_id"]])
    rows_of = told.groupby("value").indices
    splits, names = told["split"].to_numpy(), told["sample_id"].to_numpy()
    for pair in near.pairs.tolist():
        low, high = (rows_of[value] for value in pair)
        both = set(splits[low]) | set(splits[high])
        if len(both) > 1:
            content = " and ".join(f"{near.values[value]:016x}" for value in pair)
            found.append(Leak("near_hash", content, tuple(sorted(both)), (names[low[0]], names[high[0]])))
    return found


def question_leaks(columns: pd.DataFrame, questions: pd.DataFrame) -> list[Leak]:
    """Question ids in two splits, and questions outside the split of their sample."""
    found = shared("question_id", questions[["question_id", "split", "question_id"]])
    split_of = columns.drop_duplicates("sample_id").set_index("sample_id")["split"]
    expected = questions["sample_id"].map(split_of)
    for row in questions.assign(expected=expected)[expected != questions["split"]].itertuples():
        where = row.expected if isinstance(row.expected, str) else "no sample"
        found.append(Leak("question", row.question_id, (row.split, where), (row.sample_id,)))
    return found
