"""Captions that rules write over labels: path V of Fig. 3a, in the words of Fig. 7."""

from collections import Counter
from dataclasses import replace

from irgpt_lib.irtd.record import Sample

CAPTION_PROMPT = "Describe this picture in detail."
SPOKEN = {"othervehicle": "other vehicle", "oldbuilding": "old building"}
IRREGULAR = {"person": "people", "man": "men", "woman": "women", "child": "children", "bus": "buses"}
UNCHANGED = frozenset({"sheep", "deer", "fish", "aircraft"})
RULES = "rules"
CELL_TYPES = {"mono": "monocrystalline", "poly": "polycrystalline"}


def plural(noun: str) -> str:
    """English plural of a category's last word: `car` cars, `person` people, `other vehicle` other
    vehicles."""
    *before, last = noun.split(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif last not in UNCHANGED:
        if last.endswith("y") and last[-2:-1] not in set("aeiou"):
            last = f"{last[:-1]}ies"
        else:
            last += "es" if last.endswith(("s", "x", "z", "ch", "sh")) else "s"
    return " ".join([*before, last])


def counted_noun(count: int, category: str) -> str:
    """`1 car`, `7 cars`."""
    noun = SPOKEN.get(category, category)
    return f"{count} {noun if count == 1 else plural(noun)}"


def listing(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def scene_sentence(scene: str) -> str:
    """`A mountain scene.`"""
    spoken = SPOKEN.get(scene, scene)
    return f"{'An' if spoken[0].lower() in 'aeiou' else 'A'} {spoken} scene."


def solar_cell_sentence(facts: dict[str, str]) -> str:
    """`A solar cell, monocrystalline, with a defect probability of 0.33.`"""
    cell_type = CELL_TYPES[facts["cell_type"]]
    return f"A solar cell, {cell_type}, with a defect probability of {float(facts['defect_probability']):.2f}."


def montage_sentence(sample: Sample) -> str:
    """`Eight numbered crops of people; crops 1 and 5 show the same person.`"""
    return f"Eight numbered crops of people; crops 1 and {sample.montage_answer} show the same person."


def rule_caption(sample: Sample) -> str:
    """What the labels tell of the image, empty where they tell nothing.

    Categories stand in alphabetic order, so that equal labels have equal captions:
    `The image contains 7 cars and 15 people.` A scene class, or the state of a solar cell, makes its own
    sentence. Where the labels do not tell instances apart (the fact `instances: unknown`, as of semantic masks), the
    categories are named without numbers.
    """
    if sample.kind == "montage":
        return montage_sentence(sample)
    sentences = []
    if sample.scene:
        sentences.append(scene_sentence(sample.scene))
    if "defect_probability" in sample.facts:
        sentences.append(solar_cell_sentence(sample.facts))
    if counts := Counter(thing.category for thing in (*sample.boxes, *sample.points)):
        if sample.facts.get("instances") == "unknown":
            nouns = [SPOKEN.get(category, category) for category in sorted(counts)]
            sentences.append(f"Seen in the image: {', '.join(nouns)}.")
        else:
            nouns = [counted_noun(count, category) for category, count in sorted(counts.items())]
            sentences.append(f"The image contains {listing(nouns)}.")
    return " ".join(sentences)


def with_rule_caption(sample: Sample) -> Sample:
    """The sample with its rule caption and path `V`; without a caption and path `none` where no rule
    speaks."""
    caption = rule_caption(sample)
    if not caption:
        return replace(sample, caption="", caption_path="none", caption_from="", caption_state="", caption_by="")
    return replace(
        sample,
        caption=caption,
        caption_path="V",
        caption_from=sample.sample_id,
        caption_state="final",
        caption_by=RULES,
    )
