"""The strict `study` scoring of IR-TD's nine tasks for lmms-eval.

Written by `irgpt benchmark export`. This file stands alone, so that the kit needs nothing of irgpt_lib; the tests of
irgpt_lib hold it to `irgpt_lib.evaluation.scoring`, answer by answer. No answer is ever evaluated as code.
"""

import json
import re

import numpy as np
from scipy.optimize import linear_sum_assignment

OPTION = re.compile(r"\(([A-D])\) ([^()]+?)(?= \([A-D]\)|$)")
NUMBER = r"\s*(\d{1,4})\s*"
BOX = re.compile(r"<box>\s*\[\[" + ",".join([NUMBER] * 4) + r"\]\]\s*</box>")
POINT_LIST = re.compile(r"<pos>\s*\[([^\[\]<]*)\]\s*</pos>")
POINT = re.compile(rf"\({NUMBER},{NUMBER}\)")
COUNT = re.compile(r"<num>\s*(\d{1,6})\s*</num>")
MOST_POINTS = 160
WORST_ERROR = 500.0


def doc_to_visual(doc):
    """The infrared image as RGB."""
    return [doc["image"].convert("RGB")]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    """The question as the benchmark asks it, between the prompts of the task's YAML file."""
    around = lmms_eval_specific_kwargs or {}
    return f"{around.get('pre_prompt', '')}{doc['question']}{around.get('post_prompt', '')}"


def process_results(doc, results):
    """The score of one answer (accuracy: 0-100, else an absolute error), and whether it could not be read."""
    text = results[0] if isinstance(results[0], str) else ""
    parsed = read(doc["task"], text)
    value = score(doc["task"], parsed, json.loads(doc["truth"]), doc["largest"])
    about = {"question_id": doc["question_id"], "group": doc["group"], "output": text}
    return {doc["metric"]: {"score": value, **about}, "unread": 100.0 * (parsed is None)}


def mean_score(results):
    """The mean over the questions of a task."""
    return float(np.mean([result["score"] for result in results]))


def read(task, text):
    """The answer in the released grammar, None where there is none."""
    if task in ("scene", "recognition", "security"):
        return read_options(text.strip())
    if task == "grounding":
        return read_box(text)
    if task == "location":
        lists = POINT_LIST.findall(text)
        points = [[int(x), int(y)] for x, y in POINT.findall(lists[0])] if len(lists) == 1 else []
        return points[:MOST_POINTS] or None
    if task in ("aerial_counting", "pedestrian_counting"):
        counts = COUNT.findall(text)
        return int(counts[0]) if len(counts) == 1 else None
    if task == "relationship":
        word = text.strip().lower().rstrip(".")
        return word if word in ("yes", "no") else None
    return text.strip() if text.strip() in tuple("2345678") else None


def read_options(text):
    """`(A) car (C) bus` as a list of options; nothing else may stand there."""
    chosen = [f"({letter}) {option}" for letter, option in OPTION.findall(text)]
    return chosen if chosen and " ".join(chosen) == text else None


def read_box(text):
    """The corners of the only box."""
    boxes = BOX.findall(text)
    if len(boxes) != 1:
        return None
    x1, y1, x2, y2 = map(int, boxes[0])
    return [x1, y1, x2, y2] if x1 < x2 and y1 < y2 else None


def score(task, parsed, truth, largest):
    """0-100, or an absolute error of which lower is better; no answer costs as much as the worst one."""
    if task == "location":
        return WORST_ERROR if parsed is None else point_error(parsed, truth)
    if task in ("aerial_counting", "pedestrian_counting"):
        return float(max(truth, largest - truth) if parsed is None else abs(min(parsed, largest) - truth))
    if task == "grounding":
        return 100.0 * (parsed is not None and iou(parsed, truth) >= 0.5)
    return 100.0 * (parsed == truth)


def point_error(parsed, truth):
    """Mean absolute coordinate error over the best one-to-one matching; what one side lacks counts 500."""
    cost = np.abs(np.asarray(parsed, float)[:, None] - np.asarray(truth, float)[None]).mean(2)
    cost = np.minimum(cost, WORST_ERROR)
    rows, columns = linear_sum_assignment(cost)
    longer = max(len(parsed), len(truth))
    return float((cost[rows, columns].sum() + (longer - len(rows)) * WORST_ERROR) / longer)


def iou(a, b):
    """Intersection over union of two boxes `x1 y1 x2 y2`."""
    inside = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inside / (both - inside)
