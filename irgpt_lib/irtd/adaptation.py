"""From a draft that describes the visible image to words that hold for the infrared one (path IV of Fig. 3a).

The rules only take words away: a colour before its noun (`a red car` becomes `a car`), a phrase (`with the words
"City Bus" on its side`), and where neither leaves sound English, the clause or the sentence that speaks of what
infrared does not show. They put no word in but `a` for `an` and the reverse, so a rewritten caption says nothing that
the draft did not say. A language model may write the adaptation instead; its reply is held to the same list.

Colour, the lightness of cloth and paint, printed text and printed patterns hold in no infrared band. Sunlight, lamp
light, shadows and the view through glass are lost in thermal infrared alone: near and short-wave infrared are reflected
light. Bright leaves are kept in near infrared, where foliage reflects strongly.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from irgpt_lib.irtd.captions import RULES
from irgpt_lib.irtd.record import Band, Sample

Author = Literal["rules", "model", "model and rules"]
IGNORE_CASE = re.IGNORECASE
KEY_DIGITS = 12


class Prompt(NamedTuple):
    """What a describer is asked: the system text and the request itself."""

    system: str
    prompt: str


@dataclass(frozen=True)
class Adapted:
    """A caption for infrared, empty where nothing of the draft holds.

    `removed` are the visible-only terms that were found and taken out, in lower case, each once. `by` says who wrote
    `text`; `fallback` why a model's reply was not taken as it was (`empty reply`, `refusal`, `visible-only words`),
    empty where it was or none was asked for.
    """

    text: str
    removed: tuple[str, ...]
    by: Author
    fallback: str = ""


def listed(words: str) -> frozenset[str]:
    """The words of a text as a set."""
    return frozenset(words.split())


def any_of(words: str) -> str:
    """An alternation of the words; an underscore stands for the blank inside an expression."""
    return "(?:" + "|".join(word.replace("_", r"\s+") for word in words.split()) + ")"


# Names that hold a colour word but tell no colour; hidden before anything is searched for.
NAMES = tuple(
    re.compile(pattern, IGNORE_CASE)
    for pattern in (
        r"\b(?:black|red|yellow|white) sea\b",
        r"\b(?:red|yellow|orange) river\b",
        r"\bwhite house\b",
        r"\bred (?:cross|crescent|square|panda|bull)s?\b",
        r"\bgolden (?:gate|retriever|hour|eagle|ratio)s?\b",
        r"\bgreen(?:land| bay| belt| energy)\b",
        r"\b(?:village|putting|golf|bowling|salad|leafy) greens?\b",
        r"\bwhite[- ]noise\b",
        r"\b(?:white|black)[- ]hot\b",
        r"\bblack ice\b",
        r"\binfra-red\b",
        r"\b(?:mr|mrs|ms|dr)\.? (?:brown|black|white|green|gr[ae]y)\b",
        r"\borange (?:juice|tree|grove|orchard|peel|slice|blossom)s?\b",
        r"\b(?:an|one|the|this|sliced|peeled|fresh|ripe)\s+orange(?=\s*(?:[.,;:!?)]|$)|\s+(?:on|in|from|beside|near|is"
        r"|lies|sits|next|and(?!\s+(?:\w+ly\s+|light\s+|dark\s+)?(?:red|yellow|green|blue|purple|pink|brown|black|white"
        r"|gr[ae]y|silver|gold|cream|beige|tan)\b)(?=\s+(?:a|an|the|some|one|two|three)\b))\b)",
    )
)
HIDDEN = "ɵ"

COLOUR_NAMES = (
    "red orange yellow green blue purple pink brown black white gr[ae]y beige tan cyan magenta turquoise teal maroon "
    "crimson scarlet indigo violet golden silvery khaki mauve burgundy fuchsia ochre sepia reddish orangish yellowish "
    "greenish bluish purplish pinkish brownish blackish whitish gr[ae]yish whitewashed"
)
COLOURFUL = (
    "colou?red colou?rful colou?rless multi-?colou?red multicolou?r colou?r vibrant vivid pastel neon fluorescent "
    "iridescent"
)
# Metals, foods and plants: colours only beside another colour or before what is painted, dyed or grown.
DOUBTFUL_COLOURS = (
    "gold silver bronze copper cream ivory olive navy charcoal amber rose rust coral peach salmon lavender lilac lime "
    "mint plum aqua chocolate"
)
SHADES = (
    "very mostly mainly predominantly primarily largely partly partially entirely completely fully slightly light "
    "dark deep bright brightly pale soft dull muted faded rich metallic"
)
VEHICLES = (
    "cars? vehicles? suvs? sedans? hatchbacks? vans? minivans? trucks? pickups? bus buses taxis? cabs? motorcycles? "
    "motorbikes? scooters? bicycles? bikes? helmets? boats? ships? trains? trams?"
)
CLOTHES = (
    "clothes clothing outfits? garments? attire jackets? coats? shirts? t-shirts? tops? sweaters? hoodies? vests? "
    "dress dresses skirts? pants trousers jeans shorts shoes? boots? hats? caps? scarf scarves gloves? suits? "
    "uniforms? backpacks? bags? umbrellas? hair skin"
)
PAINTED = "paint roofs? walls? doors? frames? finish exteriors? bodies body fur stripes? logo tarps? tiles? bricks?"
FOLIAGE = "leaves leaf foliage trees? grass vegetation bush bushes shrubs? plants? hedges? lawns? forests? canopy"
SURROUNDINGS = "night sky skies alley street road environment surroundings conditions"

COLOUR = any_of(COLOUR_NAMES + " " + COLOURFUL)
# A colour by itself or in a word with hyphens, which goes as a whole: `red-roofed`, `dark-green`, `black-and-white`.
# Atomic groups keep the search linear.
COLOUR_WORD = rf"(?=[\w-]*?(?<!\w){COLOUR}(?!\w))(?>\w+(?:-\w+)*)"
DYED = any_of(f"{VEHICLES} {CLOTHES} {PAINTED}")
SHADE = rf"(?>(?:{any_of(SHADES)}\s+)*)"
DOUBTFUL = any_of(DOUBTFUL_COLOURS)
PAINTED_NEXT = rf"(?:[ -](?:colou?red|{DYED}|{COLOUR})\b|\s*(?:,|/|\band\b|\bor\b)\s*{COLOUR}\b)"
BETWEEN = r"(?:\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or|&|to)\s+|\s*/\s*|\s+)"
COLOURS = (
    rf"(?<!\w)(?<!\w-){SHADE}(?:{COLOUR_WORD}|{DOUBTFUL}(?={PAINTED_NEXT}))"
    rf"(?:{BETWEEN}{SHADE}(?:{COLOUR_WORD}|{DOUBTFUL}))*(?:\s+in\s+colou?r)?(?!\w)"
)

QUOTED = r"(?:\"[^\"]{1,120}\"|“[^”]{1,120}”|‘[^’]{1,120}’(?!\w)|(?<![\w'])'[^']{1,80}'(?!\w))"
CAPITALS = r"[A-Z0-9][A-Z0-9 &-]*[A-Z0-9]\b"
SAYS = r"(?:reads?|says?|displays?|shows?|states?)"
SAYING = r"(?:reading|saying|stating|displaying|labell?ed|marked|titled)"
LETTERING = r"(?:words?|texts?|lettering|letters|inscriptions?|writing|slogans?|logos?|graffiti|advertising)"
# As far as the next mark or the next thing that the sentence turns to.
TAIL = r"(?:(?!\s+(?:and|while|but|as|next|near|beside|parked|driving|standing|walking|is|are|was|were)\b)[^,.;:!?])*"
# A phrase begins at its own preposition, not at an earlier one.
INSIDE = r"(?:(?!\b(?:with|and|near|next|beside|under|in|on)\b)[^,.;:!?])*?"


@dataclass(frozen=True)
class Term:
    """One kind of visible-only expression: where it is searched for and how it can be taken out.

    `adjective`: alone, before its noun. `phrase`: the whole match. `clause`: with the clause that it stands in.
    """

    kind: str
    way: Literal["adjective", "phrase", "clause"]
    pattern: re.Pattern[str]
    bands: frozenset[str]


ALL_BANDS = frozenset({"nir", "swir", "tir"})
NOT_NEAR = frozenset({"swir", "tir"})
THERMAL = frozenset({"tir"})


def term(
    kind: str, way: Literal["adjective", "phrase", "clause"], pattern: str, bands: frozenset[str] = ALL_BANDS
) -> Term:
    return Term(kind, way, re.compile(pattern, IGNORE_CASE), bands)


TERMS = (
    term(
        "colour",
        "phrase",
        r"(?:,\s*)?\b(?:of|in)\s+(?:(?:various|different|many|several|multiple|mixed|bright|contrasting|and)\s+)+"
        rf"(?:colou?rs|hues|shades|tones)\b(?:,?\s+(?:including|such\s+as|like|mainly|mostly)\s+{COLOURS},?)?",
    ),
    term("colour", "phrase", rf"(?:,\s*)?\bin\s+(?:\w+\s+)?(?:shades|tones|hues)\s+of\s+{COLOURS}"),
    term(
        "light",
        "phrase",
        r"(?:,\s*)?\bwith\s+(?:its|their|the|all)\s+(?:head|tail|brake)[- ]?lights?\s+(?:turned\s+|switched\s+)?"
        r"(?:on|off|lit)\b",
        THERMAL,
    ),
    term("text", "phrase", rf"(?:,\s*)?\b(?:that|which)\s+{SAYS}\s+(?:\w+\s+)?{QUOTED}"),
    term("text", "phrase", rf"(?:,\s*)?\b{SAYING}\s+(?:as\s+|with\s+)?{QUOTED}"),
    term("text", "phrase", rf"(?:,\s*)?\b(?:(?:that|which)\s+{SAYS}|{SAYING})\s+(?-i:{CAPITALS})"),
    term(
        "text",
        "phrase",
        rf"(?:,\s*)?\b(?:with|bearing|featuring|displaying)\s+{INSIDE}\b{LETTERING}\b(?:\s*{QUOTED})?{TAIL}",
    ),
    term(
        "light",
        "phrase",
        r"\b(?:on|during)\s+a\s+(?:(?:bright|clear|warm),?\s+)*sunny\s+(?:day|afternoon|morning)\b",
        THERMAL,
    ),
    term(
        "light",
        "phrase",
        r"(?:,\s*)?\b(?:in|under|by)\s+(?:the\s+)?(?:(?:bright|broad|strong|warm|soft|direct|natural)\s+)*"
        r"(?:sunlight|sunshine|daylight|moonlight|darkness)\b",
        THERMAL,
    ),
    term(
        "light",
        "phrase",
        rf"(?:,\s*)?\b(?:(?:brightly|dimly|softly|partially|partly|well)[ -])?(?:lit|illuminated)\s+(?:up\s+)?"
        rf"(?:by|with)\b{TAIL}",
        THERMAL,
    ),
    term("shadow", "phrase", rf"(?:,\s*)?\b(?:casting|with|throwing)\s+{INSIDE}\bshadows?\b{TAIL}", THERMAL),
    term("shadow", "phrase", r"\bin\s+the\s+(?:shadows?|shade)(?:\s+of\s+(?:an?\s+|the\s+)?\w+)?\b", THERMAL),
    term(
        "glass",
        "phrase",
        rf"(?:,\s*)?\b(?:(?:visible|seen)\s+)?(?:through|behind)\s+(?:a|an|the|its|their)\s+(?:\w+\s+)?"
        rf"(?:glass|windows?|windshields?|windscreens?)\b(?:\s+of\b{TAIL})?",
        THERMAL,
    ),
    term("colour", "adjective", COLOURS),
    term("lightness", "adjective", rf"\b(?:very\s+)?(?:dark|darker|bright|brighter|pale)(?=[ -]{DYED}\b)"),
    term("lightness", "adjective", rf"\b(?:very\s+)?(?:dark|darker)(?=\s+{any_of(FOLIAGE)}\b)"),
    term("lightness", "adjective", rf"\b(?:very\s+)?(?:bright|brighter|pale)(?=\s+{any_of(FOLIAGE)}\b)", NOT_NEAR),
    term("lightness", "adjective", rf"\b(?:very\s+)?(?:dark|bright)(?=\s+{any_of(SURROUNDINGS)}\b)", THERMAL),
    term("look", "adjective", r"\b(?:blonde?|brunette|tanned|freckled|tattooed)\b"),
    term("look", "adjective", r"\b(?:fair|dark|light|pale|silver|blonde?)-(?:haired|skinned|eyed|complexioned)\b"),
    term("look", "adjective", r"\bfair(?=\s+(?:skin|hair|complexion)\b)"),
    term(
        "pattern", "adjective", r"\b(?:striped|plaid|tartan|checkered|chequered|floral|patterned|paisley|tie-dyed?)\b"
    ),
    term("pattern", "adjective", r"\bpolka[- ]dot(?:s|ted)?\b"),
    term(
        "light",
        "adjective",
        r"\b(?:(?:brightly|dimly|softly|partially|partly|poorly|well|sun)[ -]?lit|sunny|sunlit|moonlit|floodlit|backlit"
        r"|unlit|lit|shadowy|illuminated|(?:brightly\s+)?glowing|brightly\s+illuminated)\b",
        THERMAL,
    ),
    term("colour", "clause", r"\b(?:colou?rs|colou?ration|colou?ring|hues?|tints?|tinted|palettes?|rainbows?)\b"),
    term("colour", "clause", r"\b(?:shades\s+of|(?:skin|earth|earthy|warm|cool|muted|neutral)\s+tones?)\b"),
    term("colour", "clause", r"\b(?:reds|blues|greens|yellows|browns|blacks|whites|gr[ae]ys|pinks)\b"),
    term("colour", "clause", rf"\b(?:is|are|was|were|in)\s+(?:all\s+)?{DOUBTFUL}(?=\s*(?:[,.;:!?]|$))"),
    term("look", "clause", r"\b(?:complexions?|freckles|makeup|lipstick|tattoos?|brunettes|blondes?)\b"),
    term("text", "clause", QUOTED),
    term("text", "clause", r"\b(?:lettering|inscriptions?|slogans?|logos?|graffiti|murals?|handwriting)\b"),
    term("text", "clause", r"\b(?:texts?|letters|words|written|writing|legible|labell?ed)\b"),
    term("text", "clause", r"\b(?:signs?|signboards?|plates?|banners?|billboards?)\s+(?:that\s+)?(?:reads?|says?)\b"),
    term("text", "clause", r"\b(?:signs?|signboards?|plates?|banners?|billboards?)\s+(?:reading|saying)\b"),
    term(
        "light",
        "clause",
        r"\b(?:sunlight|sunshine|daylight|moonlight|candlelight|lighting|illuminat\w+|lit|glows?|glowing|glare|gleam\w*"
        r"|dimly|brightly|darkness|(?:warm|soft|bright|ambient|artificial|natural)\s+lights?)\b",
        THERMAL,
    ),
    term(
        "light", "clause", r"\b(?:head|tail|brake|street)[- ]?lights?\s+(?:is|are|was|were|shining|shines?)\b", THERMAL
    ),
    term("light", "clause", r"\blights?\s+(?:is|are)\s+(?:soft|dim|warm|low|bright|natural|even|on|off)\b", THERMAL),
    term("shadow", "clause", r"(?<!thermal )\bshadows?\b", THERMAL),
)

DETERMINERS = listed("a an the this that these those his her its their our my your some several many few")
NUMBERS = listed("one two three four five six seven eight nine ten")
BE = listed("is are was were be been being appear appears look looks seem seems turn turns turned remain remains")
VERBS = listed(
    "has have had can may will stands stand walks walk sits sit rides ride runs run crosses drives moves holds carries "
    "waits hangs stood walked sat rode ran crossed drove moved held carried waited"
)
FUNCTION_WORDS = (
    listed(
        "of in on at with by to for from and or but nor as than while whereas although though because if when where "
        "which who whose that it he she they there here not also too again now today overhead outside inside above "
        "below behind beside under over near next along across around through throughout into onto against between "
        "among during before after toward towards up down out off away everywhere somewhere upon within without about "
        "instead rather almost one ones"
    )
    | (DETERMINERS - {"few", "many", "several"})
    | BE
    | VERBS
    | NUMBERS
)
# Words that a comma or `and` joins to a colour before one noun.
PLAIN_ADJECTIVES = listed(
    "large small big tall short long wide narrow old new modern tiny huge shiny wooden round square empty quiet busy "
    "thick thin flat open closed compact heavy lush dense bright clean dirty"
)
THINGS_IN_ING = listed(
    "building clothing ceiling awning railing crossing marking painting wing string ring king siding lettering parking "
    "lighting"
)
FOLIAGE_WORD = re.compile(rf"\s+{any_of(FOLIAGE)}\b", IGNORE_CASE)
KEPT_SHADE = re.compile(r"(?:bright|light)[ -]", IGNORE_CASE)


# An abbreviation's full stop ends no sentence.
ABBREVIATION = re.compile(r"(?:\b(?:st|mr|mrs|dr|no|vs|approx|fig|[a-z])|\be\.g|\bi\.e)\.$", IGNORE_CASE)
SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*\s+|\s*\n\s*")
CLAUSE_START = re.compile(
    r"\s*;\s+|\s*[—–]\s*|\s+-\s+|,\s+(?:and|but|while|whereas|although|though|with|as|where|so|which|who)\s+(?=\w)"
    r"|\s+(?:while|whereas|although|though|but|with|which)\s+|,\s+",
    IGNORE_CASE,
)
# After these connectors a clause can stand by itself.
INDEPENDENT = re.compile(r"(?:[;—–-]|\b(?:and|but|while|whereas|although|though|so)\b)", IGNORE_CASE)
INTRODUCTION = re.compile(
    r"(?:in|on|under|at|with|above|below|behind|near|beneath|against|by|despite|from)\b", IGNORE_CASE
)
# Two statements that only `and` joins: each has its own verb.
TWO_STATEMENTS = re.compile(
    rf"(.*\b(?:is|are|was|were|has|have)\b.*?)(\s+and\s+)((?:{'|'.join(sorted(DETERMINERS | NUMBERS))})\b"
    r".*\b(?:is|are|was|were|has|have)\b.*)",
    IGNORE_CASE,
)
LEAST_WORDS = 4
DANGLING = re.compile(
    r"\b(?:an?|the|its|their|his|her)\s*(?:[,;]|$|(?:of|in|on|at|with|by|and|or|is|are|was|were|that|which|an?|the)\b)"
    r"|\b(?:is|are|was|were|appears?|looks?|seems?)\s*(?:[,;]|$|(?:of|and|or|with|is|are|was|were)\b)"
    r"|\b(?:of|in|on|at|with|by|to|for|from|and|or|but|be|being|wearing|painted|dressed|has|have|that|which|who|very)"
    r"\s*(?:[,;]|$)"
    r"|\b(?:of|in|on|at|with|by|for|from|wearing)\s+(?:of|and|or|with|is|are|was|were)\b",
    IGNORE_CASE,
)
CONSONANT_SOUND = re.compile(r"(?:uni(?![nm])|use|usual|util|euro|one\b|once|u[bcfhjkqrst][aeiou])", IGNORE_CASE)
SILENT_H = re.compile(r"(?:hour|honest|honou?r|heir)", IGNORE_CASE)
NOMINAL_BEFORE = re.compile(
    r"(?:,\s*)?\b(?:(?:wearing|sporting)(?:\s+all)?|(?:(?:dressed|clad|painted|dyed|decorated|outfitted|marked|shown)\s+)?"
    r"(?:entirely\s+|all\s+)?(?:in|with)(?:\s+all)?|painted|dyed)\s+$",
    IGNORE_CASE,
)
# `is lush and green`: the first adjective stays.
LUSH_AND = re.compile(rf"\b(?:{'|'.join(sorted(BE))})\s+(?:\w+ly\s+)?([a-z]+)\s*,?\s+and\s+$", IGNORE_CASE)
# `is white and has`: the second verb stays.
VERB_AFTER_AND = re.compile(rf"\s*,?\s+and\s+(?=(?:{'|'.join(sorted(BE | VERBS))})\b)", IGNORE_CASE)
VERB_ENDING = re.compile(r"\s+\w+(?:s|ed)\b")
RELATIVE_BEFORE = re.compile(r"(?:,\s*)?\b(?:that|which|who)\s+(?:is|are|was|were)\s+$", IGNORE_CASE)


PROPER_NAME = re.compile(rf"(?<=[\w,] ){COLOUR}\s+(?-i:[A-Z])\w+", IGNORE_CASE)


def hide(found: re.Match[str]) -> str:
    """As many hidden letters as the match has letters."""
    return re.sub(r"\w", HIDDEN, found[0])


def hidden_quotes(text: str) -> str:
    """The text at the same length, with what stands between quotation marks hidden."""
    return re.sub(QUOTED, lambda found: HIDDEN * len(found[0]), text)


def hidden_names(text: str) -> str:
    """The text at the same length, with every letter of a name that holds a colour word hidden."""
    for name in NAMES:
        text = name.sub(hide, text)
    longer = re.findall(r"\b[A-Za-z]\w{3,}", text)
    if sum(word[0].isupper() for word in longer) * 2 <= len(longer):
        # Two capitals inside a sentence are a proper name; in a title they are nothing.
        text = PROPER_NAME.sub(lambda found: hide(found) if found[0][0].isupper() else found[0], text)
    return text


def found_terms(sentence: str, band: Band) -> list[tuple[int, int, Term]]:
    """Start, end and kind of every visible-only expression of one sentence, in the order of `TERMS`; they may
    overlap."""
    searched = hidden_names(sentence)
    return [
        (found.start(), found.end(), term)
        for term in TERMS
        if band in term.bands
        for found in term.pattern.finditer(searched)
    ]


def named_terms(sentence: str, band: Band) -> list[str]:
    """The expressions of one sentence, of two that overlap the one that starts first, or else the longer."""
    terms: list[str] = []
    last = 0
    for start, end, _ in sorted(found_terms(sentence, band), key=lambda found: (found[0], -found[1])):
        if start >= last:
            terms.append(" ".join(sentence[start:end].strip(" ,").lower().split()))
            last = end
    return terms


def visible_only_terms(text: str, band: Band) -> list[str]:
    """The expressions of a text that tell what infrared light of this band does not show: lower case, in the order of
    the text, each once; empty where all of it may hold."""
    return list(dict.fromkeys(term for sentence, _ in split_sentences(text) for term in named_terms(sentence, band)))


def split_sentences(text: str) -> list[tuple[str, str]]:
    """Sentences, each with the white space that followed it: a blank or, where a line ended, a line break. What stands
    between quotation marks is not split."""
    quoted = hidden_quotes(text)
    pieces: list[tuple[str, str]] = []
    start = 0
    for found in SENTENCE_END.finditer(quoted):
        mark = found[0].rstrip()
        if mark == "." and ABBREVIATION.search(quoted[: found.start() + 1]):
            continue
        pieces.append((text[start : found.start()] + mark, "\n" if "\n" in found[0] else " "))
        start = found.end()
    return [(piece.strip(), space) for piece, space in [*pieces, (text[start:], "")] if piece.strip()]


def with_article(before: str, after: str) -> str:
    """`before` with its last `a` or `an`, where it ends in one, as the first word of `after` asks for it."""
    found = re.search(r"\b(an?)(\s+)$", before, IGNORE_CASE)
    word = re.match(r"\w+", after)
    if not found or not word:
        return before
    if re.fullmatch(r"[A-Z][A-Z0-9]+s?", word[0]):
        vowel = word[0][0] in "AEFHILMNORSX"
    elif word[0].isdigit():
        vowel = word[0].startswith("8") or word[0] in ("11", "18")
    else:
        vowel = bool(SILENT_H.match(word[0])) or (word[0][0] in "aeiouAEIOU" and not CONSONANT_SOUND.match(word[0]))
    article = found[1][0] + ("n" if vowel else "")
    return before[: found.start()] + article + found[2]


def cut(text: str, start: int, end: int) -> str:
    """The text without the characters from `start` to `end`, with what that leaves of blanks, commas and articles put
    right."""
    before, after = text[:start], text[end:]
    before = with_article(before, after.lstrip())
    return tidy(f"{before} {after}" if before and after else before + after)


def tidy(text: str) -> str:
    """The text with single blanks, none before a mark, no empty brackets, no doubled commas and none at its ends."""
    text = " ".join(re.sub(r"\(\s*\)", " ", text).split())
    text = re.sub(r"\s+([,.;:!?)])", r"\1", text)
    text = re.sub(r"([,;])(?:\s*[,;])+", r"\1", text)
    return re.sub(r"^[\s,;:.]+|[\s,;:]+$", "", text)


def last_word(text: str) -> str:
    """The word that the text ends in, lower case; a mark of punctuation where it ends in one, empty at its start."""
    found = re.search(r"([\w'’-]+|[^\w\s])\s*$", text)
    return found[1].lower() if found else ""


def stands_before_noun(after: str) -> bool:
    """Whether the text goes on with a word that a noun phrase could go on with."""
    found = re.match(r"\s+([\w'’-]+)", after)
    return bool(found) and found[1].lower() not in FUNCTION_WORDS


def ends_phrase(after: str) -> bool:
    """Whether a noun phrase that ends here is followed by something else than its noun: a mark, a preposition, a verb,
    or `walking down`, which is no noun, unlike `running shoes`."""
    if not stands_before_noun(after):
        return True
    acting = re.match(r"\s+(\w+ing)(?=\s+([\w'’-]+)|\s*[,.;:!?]|\s*$)", after)
    if not acting or acting[1].lower() in THINGS_IN_ING:
        return False
    return acting[2] is None or acting[2].lower() in FUNCTION_WORDS


def acts_after_and(after: str) -> re.Match[str] | None:
    """`and parked`, `and driving`: what a predicate goes on with when its colour is gone."""
    found = re.match(r"\s*,?\s+and\s+(?=(\w{3,}(?:ed|ing))\b)", after, IGNORE_CASE)
    return found if found and found[1].lower() not in THINGS_IN_ING else None


def without_adjective(text: str, start: int, end: int, band: Band) -> str | None:
    """The text without one adjective or run of colours; None where English would not stand that."""
    before, after = text[:start], text[end:]
    previous = last_word(before)
    predicate = previous in BE and not re.search(r"\bthere\s+(?:is|are|was|were)\s+$", before, IGNORE_CASE)
    if (nominal := NOMINAL_BEFORE.search(before)) and ends_phrase(after):
        if nominal[0].strip(" ,").lower().startswith("with") and not re.match(r"\s*(?:[,.;:!?]|$)", after):
            return None
        if last_word(text[: nominal.start()]) in NUMBERS:
            return None
        joined = acts_after_and(after)
        return cut(text, nominal.start(), end + (joined.end() if joined else 0))
    if (relative := RELATIVE_BEFORE.search(before)) and (ends_phrase(after) or VERB_ENDING.match(after)):
        return None if acts_after_and(after) else cut(text, relative.start(), end)
    if (lush := LUSH_AND.search(before)) and ends_phrase(after):
        return cut(text, lush.end(1), end)
    if predicate:
        if verb := VERB_AFTER_AND.match(after):
            return cut(text, len(before.rstrip()) - len(previous), end + verb.end())
        joined = acts_after_and(after)
        return cut(text, start, end + joined.end()) if joined else None
    if previous == "," and after.startswith(","):
        return cut(text, before.rstrip().rindex(","), end + 1)
    if stands_before_noun(after):
        if band == "nir" and FOLIAGE_WORD.match(after) and (shade := KEPT_SHADE.match(text[start:end])):
            start += shade.end()
        joint = re.search(r"([\w-]+)(\s*,|\s+and)\s+$", before, IGNORE_CASE)
        if joint and joint[1].lower() in PLAIN_ADJECTIVES:
            start = joint.start(2)
        return cut(text, start, end)
    joined = re.match(r"(?:\s*,|\s+and)(?=\s+[\w-]+)", after, IGNORE_CASE)
    if joined and previous in DETERMINERS | NUMBERS and stands_before_noun(after[joined.end() :]):
        return cut(text, start, end + joined.end())
    return None


def statements(connector: str, part: str) -> list[tuple[str, str]]:
    """A clause with its connector, as two where `and` joins two statements in it."""
    found = TWO_STATEMENTS.fullmatch(part)
    return [(connector, found[1]), (found[2], found[3])] if found else [(connector, part)]


def without_clauses(text: str, band: Band) -> str:
    """The text without the clauses that hold a visible-only expression; empty where the main clause is one and what is
    left cannot stand by itself."""
    parts: list[tuple[str, str]] = []
    connector, start = "", 0
    for found in CLAUSE_START.finditer(hidden_quotes(text)):
        parts += statements(connector, text[start : found.start()])
        connector, start = found[0], found.end()
    parts += statements(connector, text[start:])
    kept, dropped = "", False
    for number, (connector, part) in enumerate(parts):
        if found_terms(part, band):
            dropped = True
            continue
        if not kept:
            introduced = number and connector.strip() == "," and INTRODUCTION.match(parts[0][1])
            independent = not number or introduced or INDEPENDENT.search(connector)
            if not independent or (number and len(part.split()) < LEAST_WORDS):
                return ""
            kept = part
        elif dropped and connector.strip() == "," and (part.split() or [""])[0].lower() in BE | VERBS:
            kept += " " + part
        elif dropped and len(part.split()) < LEAST_WORDS and connector.startswith(","):
            continue
        else:
            kept += connector + part
        dropped = False
    return tidy(kept)


def leaves_a_gap(text: str, original: str) -> bool:
    """Whether the text ends or breaks off where the original did not: `the of`, `is and`, `with` at the end."""
    return len(DANGLING.findall(text)) > len(DANGLING.findall(original))


def without_one_term(text: str, band: Band) -> str | None:
    """The text after the first removal of a phrase or an adjective that leaves no gap, None where there is none."""
    for start, end, term in found_terms(text, band):
        if term.way == "clause":
            continue
        shorter = cut(text, start, end) if term.way == "phrase" else without_adjective(text, start, end, band)
        if shorter is not None and not leaves_a_gap(shorter, text):
            return shorter
    return None


def adapted_sentence(sentence: str, band: Band) -> str:
    """One sentence without its visible-only expressions, empty where nothing sound is left; unchanged where it has
    none."""
    if not found_terms(sentence, band):
        return sentence
    mark = re.search(r"[.!?]+$", sentence) or re.search(r"[.!?](?=[\"'”’)]+$)", sentence)
    body = re.sub(r"[.!?]+$", "", sentence)
    original = body
    while (shorter := without_one_term(body, band)) is not None:
        body = shorter
    if found_terms(body, band):
        body = without_clauses(body, band)
    if not body or found_terms(body, band) or leaves_a_gap(body, original) or len(body.split()) < 2:
        return ""
    if sentence[0].isupper():
        body = body[0].upper() + body[1:]
    return body + (mark[0] if mark else "")


def adapt(draft: str, band: Band) -> Adapted:
    """The rule rewrite of a draft for one band.

    The text holds no visible-only expression (`visible_only_terms` finds none), no word that the draft lacks but `a` or
    `an`, and adapting it again changes nothing. It is empty where nothing of the draft holds.
    """
    text = "\n".join(" ".join(line.split()) for line in draft.split("\n") if line.strip())
    removed: dict[str, None] = {}
    while terms := visible_only_terms(text, band):
        removed.update(dict.fromkeys(terms))
        pieces = [(adapted_sentence(sentence, band), space) for sentence, space in split_sentences(text)]
        text = "".join(piece + space for piece, space in pieces if piece).strip()
    return Adapted(text, tuple(removed), "rules")


BAND_NAMES: dict[str, str] = {
    "nir": "near-infrared",
    "swir": "short-wave infrared",
    "tir": "thermal infrared",
}
LOST: dict[str, str] = {
    "nir": "colours, how light or dark clothes and paint are, printed patterns, and what signs and texts say",
    "swir": "colours, how light or dark clothes, paint and plants are, printed patterns, and what signs and texts say",
    "tir": "colours, how light or dark things are, printed patterns, what signs and texts say, sunlight, lamp light, "
    "shadows, and what is seen through glass",
}
DRAFT_PROMPT = Prompt(
    "You describe photographs for a dataset. You state only what can be seen.",
    "Describe this photograph in three to five plain sentences: the kind of place, the objects with their numbers, "
    "where they are, what people and vehicles do, and how things stand to each other. Do not guess at what is not "
    "visible, do not judge the picture's quality or mood, and do not use lists.",
)
REFUSAL = re.compile(
    r"\b(?:i(?:'|’)?m sorry|i am sorry|i apologi[sz]e|i (?:cannot|can(?:'|’)t|am unable|am not able|(?:'|’)m unable)|"
    r"as an ai|as a language model|unable to (?:assist|help|see|view|process))\b",
    IGNORE_CASE,
)
PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course)[^\n:.!]{0,60}[:.!]\s*)?(?:here(?:'|’)?s?(?: is| are)?\b[^\n:]{0,80}:|"
    r"(?:\*\*)?(?:adapted |rewritten |revised |infrared |final )*(?:caption|description|text)(?:\*\*)?:(?:\*\*)?)\s*",
    IGNORE_CASE,
)


def adaptation_prompt(draft: str, band: Band) -> Prompt:
    """What to ask a language model for: the draft in words that hold for one infrared band."""
    camera = BAND_NAMES[band]
    return Prompt(
        f"You edit captions. A caption was written from a colour photograph, and it must now describe the {camera} "
        "image of the same scene.",
        f"A {camera} image does not show {LOST[band]}. Take every statement of that kind out of the caption below. "
        "Keep everything else: the objects, their numbers, places and actions. Add nothing, and do not mention "
        f"the camera. Answer with the caption alone.\n\nCaption: {draft}",
    )


def refused(reply: str) -> bool:
    """Whether a reply begins by declining: an apology or a statement of inability in its first 160 characters."""
    return bool(REFUSAL.search(reply[:160]))


def plain_reply(reply: str, *, cut_off: bool = False) -> str:
    """The text that a model wrote, without the words around it: a preamble, a code fence, quotation marks, emphasis.

    `cut_off` says that the reply ended at the token limit; its last, unfinished sentence is then left out.
    """
    text = re.sub(r"^```\w*\s*|\s*```$", "", reply.strip())
    text = PREAMBLE.sub("", text.strip()).strip()
    text = re.sub(r"\*\*|__", "", text)
    if len(text) > 1 and (text[0], text[-1]) in {('"', '"'), ("“", "”"), ("'", "'")}:
        text = text[1:-1].strip()
    if cut_off:
        whole = [piece for piece in split_sentences(text) if re.search(r"[.!?][\"'”’)\]]*$", piece[0])]
        text = "".join(sentence + space for sentence, space in whole).strip()
    return text


def adapt_reply(draft: str, reply: str, band: Band, *, cut_off: bool = False) -> Adapted:
    """A language model's adaptation, where it holds; else the rule rewrite of it, and of the draft where it is none.

    `fallback` says which: `empty reply` and `refusal` go back to the draft (`by` is `rules`), `visible-only words`
    rewrites the reply (`by` is `model and rules`). `cut_off`: see `plain_reply`.
    """
    text = plain_reply(reply, cut_off=cut_off)
    if not text or refused(text):
        return replace(adapt(draft, band), fallback="refusal" if text else "empty reply")
    before = tuple(visible_only_terms(draft, band))
    adapted = adapt(text, band)
    removed = tuple(dict.fromkeys([*before, *adapted.removed]))
    if adapted.removed:
        return Adapted(adapted.text, removed, "model and rules", "visible-only words")
    return Adapted(adapted.text, removed, "model")


def author(model: str, key: str) -> str:
    """Who wrote a text, for `caption_by`: the model and the first 12 digits of its reply's key."""
    return f"{model}@{key[:KEY_DIGITS]}"


def with_draft(sample: Sample, draft: str, describer: str) -> Sample:
    """The sample with a describer's draft of its visible image, state `draft`; `describer` as `author` writes it."""
    return replace(
        sample,
        caption=draft,
        caption_path="IV",
        caption_from=sample.sample_id,
        caption_state="draft",
        caption_draft=draft,
        caption_by=describer,
    )


def with_adapted(sample: Sample, adapted: Adapted, adapter: str = "") -> Sample:
    """A sample with a draft (`with_draft`) and now its caption for infrared, state `final`.

    `caption_by` names all who wrote it: `model@0123456789ab + rules`. `adapter` is the language model that adapted, as
    `author` writes it. What was taken out stands in the fact `adaptation_removed`, why a reply was not taken as it was
    in `adaptation_fallback`.

    Raises:
        ValueError: the sample has no draft, or the adapted text is empty: such a sample goes to path V.
    """
    if sample.caption_state != "draft":
        raise ValueError(f"{sample.sample_id}: caption is {sample.caption_state or 'missing'}, expected a draft")
    if not adapted.text:
        raise ValueError(f"{sample.sample_id}: nothing of the draft holds for infrared; give it a rule caption")
    by_model = [adapter] if adapter and adapted.by != "rules" else []
    by_rules = [RULES] if adapted.by != "model" else []
    facts = {"adaptation_removed": "; ".join(adapted.removed), "adaptation_fallback": adapted.fallback}
    return replace(
        sample,
        caption=adapted.text,
        caption_state="final",
        caption_by=" + ".join([sample.caption_by, *by_model, *by_rules]),
        facts=sample.facts | {name: value for name, value in facts.items() if value},
    )
