"""What the dataset came to, in the counts that the notebook shows and the tables' headings need."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from irgpt_lib.irtd.near_duplicates import NEAR_DUPLICATE
from irgpt_lib.irtd.questions import QUESTION_SPLITS
from irgpt_lib.irtd.record import Rejected, Sample


def account(overview: pd.DataFrame, rejected: Sequence[Rejected], questions: pd.DataFrame) -> dict[str, object]:
    """The counts of the dataset; `overview` has one row a sample, as `assemble.write` returns it."""

    def counted(column: str) -> dict[str, int]:
        return {str(key): int(n) for key, n in overview[column].value_counts().sort_index().items()}

    return {
        "samples": len(overview),
        "authentic": int(overview["authentic"].sum()),
        "simulated": int((~overview["authentic"]).sum()),
        "sources": counted("source"),
        "splits": counted("split"),
        "bands": counted("band"),
        "paired": int(overview["paired"].sum()),
        "captioned": int((overview["words"] > 0).sum()),
        "caption_paths": counted("caption_path"),
        "caption_states": counted("caption_state"),
        "swapped_captions": int(overview["swapped"].sum()),
        "questions": {
            split: dict(sorted(Counter(questions.loc[questions["split"] == split, "task"]).items()))
            for split in QUESTION_SPLITS
        },
        "near_duplicates": sum(r.reason == NEAR_DUPLICATE for r in rejected),
        "rejected": dict(sorted(Counter(r.reason for r in rejected).items())),
    }


def table1_column(found: dict[str, object]) -> list[str]:
    """This dataset in the rows of the paper's Table 1, from its account."""
    questions = found["questions"]
    benchmark = questions["benchmark"]
    authentic = "yes" if found["authentic"] == found["samples"] else "no, simulated"
    return [
        str(found["splits"].get("pretrain", 0)),
        str(sum(questions["instruction"].values())),
        str(sum(benchmark.values())),
        str(len(found["sources"])),
        str(len(benchmark)),
        "yes",
        authentic,
        f"{found['near_duplicates']} near-duplicates dropped" if found["authentic"] else "not measured",
    ]


def gallery(samples: Sequence[Sample], count: int) -> pd.DataFrame:
    """`count` samples, evenly spread over sources, bands and kinds, with what a picture of them needs."""
    kinds: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        kinds.setdefault((sample.source, sample.kind, sample.band), []).append(sample)
    groups = [kinds[key] for key in sorted(kinds)]
    drawn = np.random.default_rng(0).permutation(len(groups))[:count]
    shown = [groups[i][0] for i in drawn] + [group[1] for group in groups if len(group) > 1]
    names = ("infrared", "visible", "caption", "boxes", "band", "sample_id")
    rows = [{name: getattr(sample, name) for name in names} for sample in shown[:count]]
    return pd.DataFrame(rows)
