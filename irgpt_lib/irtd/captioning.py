"""Captions of a whole dataset, by the two paths of Fig. 3a: path IV, a describer drafts the visible image of a pair and
the draft is adapted to infrared; path V, rules over labels. Which one, and why, is kept with every sample."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from irgpt_lib import params
from irgpt_lib.irtd import adaptation
from irgpt_lib.irtd.describing.describer import Describer, Failure, JournalledDescriber, Reply, Request
from irgpt_lib.irtd.describing.local_model import LocalModel
from irgpt_lib.irtd.describing.openai_server import OpenAIServer
from irgpt_lib.irtd.enhancement import view_to_describe
from irgpt_lib.irtd.record import RecordError, Rejected, Sample
from irgpt_lib.irtd.review import Decision, apply_review
from irgpt_lib.irtd.routing import back_to_rules, route, routed

Stream = Callable[[], Iterable[Sample]]
FAILED = "describer failed"


@dataclass
class Captions:
    """What describers wrote, by sample id: drafts of visible images, adaptations by a model, the facts of the view that
    was described (`visible_enhanced`), and why there is no draft."""

    drafts: dict[str, Reply] = field(default_factory=dict)
    adaptations: dict[str, Reply] = field(default_factory=dict)
    views: dict[str, dict[str, str]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def describer_of(config: params.Describer, journal: Path) -> Describer | None:
    """The describer that the section names, with its journal in that folder; `None` where it names none."""
    if config.kind == "server":
        server = OpenAIServer(
            config.url,
            config.model,
            key_variable=config.key_variable,
            max_tokens=config.max_tokens,
            concurrency=config.concurrency,
            per_minute=float(config.per_minute),
        )
        return JournalledDescriber(server, journal)
    if config.kind == "local":
        return JournalledDescriber(LocalModel(config.model, max_tokens=config.max_tokens), journal)
    return None


def describe_all(
    samples: Stream, preferred: Mapping[str, str], config: params.Dataset, describer: Describer | None
) -> Captions:
    """Drafts of all visible images that go path IV, and their adaptations where a model is to adapt them.

    `samples` gives the stream of samples anew at each call; images are in memory one after another. `preferred` holds
    the registered route of sources by name.

    Raises:
        NoReplies: the describer answers nothing; what it answered before is in its journal.
    """
    captions = Captions()
    if describer is None:
        return captions

    def drafts() -> Iterator[Request]:
        prompt = adaptation.DRAFT_PROMPT
        for sample in samples():
            if not sample.authentic or route(sample, preferred, describer=True).path == "V":
                continue
            try:
                image, facts = view_to_describe(sample, config.enhancement.kind, config.enhancement.weights)
            except RecordError as error:
                captions.failures[sample.sample_id] = str(error)
                continue
            captions.views[sample.sample_id] = facts
            yield Request(sample.sample_id, prompt.prompt, prompt.system, image)

    collect(describer.describe(drafts()), captions.drafts, captions.failures)
    if config.describer.adapt == "model":
        bands = {s.sample_id: s.band for s in samples() if s.sample_id in captions.drafts}

        def rewrites() -> Iterator[Request]:
            for name, draft in sorted(captions.drafts.items()):
                asked = adaptation.adaptation_prompt(draft.text, bands[name])
                yield Request(name, asked.prompt, asked.system)

        collect(describer.describe(rewrites()), captions.adaptations, {})
    return captions


def collect(answers: Iterable[Reply | Failure], replies: dict[str, Reply], failures: dict[str, str]) -> None:
    """Sort answers into replies and failures, by name."""
    for answer in answers:
        if isinstance(answer, Reply):
            replies[answer.name] = answer
        else:
            failures[answer.name] = f"{answer.reason}: {answer.detail}" if answer.detail else answer.reason


def captioned(
    samples: Iterable[Sample], captions: Captions, preferred: Mapping[str, str], *, describer: bool
) -> Iterator[Sample]:
    """The samples with their captions. A simulated sample keeps the one that it has; one that should go path IV and got
    no usable text there is captioned by rules, with the reason."""
    for sample in samples:
        if not sample.authentic:
            yield sample
            continue
        (known,) = routed([sample], preferred, describer=describer)
        yield from_draft(known, captions) if known.facts["route"] == "IV" else known


def reviewed(samples: Iterable[Sample], decisions: Sequence[Decision], unapplied: list[Rejected]) -> Iterator[Sample]:
    """The samples with what people decided about their captions; decisions that fit none are added to `unapplied`."""
    for item in apply_review(samples, decisions):
        if isinstance(item, Rejected):
            unapplied.append(item)
        else:
            yield item


def from_draft(sample: Sample, captions: Captions) -> Sample:
    """One sample of path IV with its draft adapted to its band."""
    name = sample.sample_id
    if name not in captions.drafts:
        return back_to_rules(sample, FAILED, captions.failures.get(name, "no reply"))
    draft = captions.drafts[name]
    text = adaptation.plain_reply(draft.text, cut_off=draft.finish == "length")
    if not text or adaptation.refused(text):
        return back_to_rules(sample, FAILED, "refusal" if text else "empty reply")
    seen = replace(sample, facts=sample.facts | captions.views.get(name, {}))
    drafted = adaptation.with_draft(seen, text, adaptation.author(draft.model, draft.key))
    rewrite = captions.adaptations.get(name)
    if rewrite is None:
        adapted, adapter = adaptation.adapt(text, sample.band), ""
    else:
        adapted = adaptation.adapt_reply(text, rewrite.text, sample.band, cut_off=rewrite.finish == "length")
        adapter = adaptation.author(rewrite.model, rewrite.key)
    return adaptation.with_adapted(drafted, adapted, adapter) if adapted.text else back_to_rules(drafted)
