"""The instruction records that a describer writes: which samples are asked about, and what became of each reply."""

import json
from collections.abc import Iterator, Sequence

import pandas as pd

from irgpt_lib import params
from irgpt_lib.irtd.describing.describer import Describer, Failure, Reply, Request
from irgpt_lib.irtd.instructions import KINDS, Kind, instruction_prompt, read_reply
from irgpt_lib.irtd.record import RecordError, Sample

COLUMNS = ["sample_id", "split", "kind", "state", "turns", "by", "prompt_key", "removed", "detail"]
KEPT = "kept"


def converse(samples: Sequence[Sample], config: params.Describer, describer: Describer | None) -> pd.DataFrame:
    """Conversations, descriptions and reasoning about the first `config.conversations` captioned samples of the
    instruction split, one row a sample and kind.

    `state` is `kept`, or why there is no record: a reason that can be counted, with `detail`. `turns` is a JSON list of
    question and answer. Without a describer the table is empty.

    Raises:
        NoReplies: the describer answers nothing.
    """
    if describer is None or not config.conversations:
        return pd.DataFrame(columns=COLUMNS)
    own = [s for s in samples if s.split == "instruction" and s.caption and s.authentic][: config.conversations]
    by_name: dict[str, tuple[Sample, Kind]] = {f"{s.sample_id}#{kind}": (s, kind) for s in own for kind in KINDS}

    def requests() -> Iterator[Request]:
        for name, (sample, kind) in by_name.items():
            asked = instruction_prompt(sample, kind)
            yield Request(name, asked.prompt, asked.system)

    answers = {answer.name: answer for answer in describer.describe(requests())}
    return pd.DataFrame([row_of(*by_name[name], answers[name]) for name in by_name], columns=COLUMNS)


def row_of(sample: Sample, kind: Kind, answer: Reply | Failure) -> dict[str, str]:
    """One reply read, or why it is none."""
    row = dict.fromkeys(COLUMNS, "") | {"sample_id": sample.sample_id, "split": sample.split, "kind": kind}
    if isinstance(answer, Failure):
        return row | {"state": answer.reason, "detail": answer.detail}
    try:
        read = read_reply(sample, kind, answer.text, answer.model, answer.key, cut_off=answer.finish == "length")
    except RecordError as error:
        return row | {"state": error.reason, "detail": error.detail, "prompt_key": answer.key}
    turns = json.dumps(read.turns, ensure_ascii=False)
    removed = "; ".join(read.removed)
    return row | {"state": KEPT, "turns": turns, "by": read.by, "prompt_key": read.prompt_key, "removed": removed}
