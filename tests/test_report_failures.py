"""Cards and figures of failures: everything on them that should be, in the colour that says what it is."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from irgpt_lib.evaluation.hallucination import MEASURES
from irgpt_lib.irtd.record import RecordError, png_bytes
from irgpt_lib.report import failures as draw
from irgpt_lib.report import plots

PICTURE = png_bytes(np.arange(4096, dtype=np.uint8).reshape(64, 64))
BOX = "The target bounding box is <box>[[{}]]</box>."


def answers(**changed):
    row = {
        "question_id": "q",
        "task": "grounding",
        "band": "tir",
        "question": "Detect the bounding box of the car.",
        "output": BOX.format("100, 100, 500, 500"),
        "answer": BOX.format("500, 0, 1000, 500"),
        "truth": "[500, 0, 1000, 500]",
        "score": 0.0,
        "infrared": PICTURE,
        "confidence": float(np.log(0.5)),
        "worst": 1,
        "confident": 0,
        "kind": "bad",
        "share": 0.25,
    }
    return pd.DataFrame([row | changed])


def rates(models=("base", "fine_tuned"), probes=("security", "grounding")):
    rows = [
        (model, probe, measure, 40.0 + 10 * place, 30.0, 100.0, 7, 5, 3, 0.0)
        for model in models
        for probe in probes
        for place, measure in enumerate(MEASURES)
    ]
    return pd.DataFrame(
        rows, columns=["model", *["probe", "measure", "value", "low", "high", "absent", "present", "groups", "unread"]]
    )


def confused():
    rows = [
        ("recognition", "car", "car", 3, 4, 4, 0.75, 0.75),
        ("recognition", "car", "dog", 1, 2, 4, 0.25, 0.5),
        ("recognition", "car", "no answer", 0, 4, 4, 0.0, 0.0),
        ("security", "car shown", "shown", 2, 2, 2, 1.0, 1.0),
        ("security", "car absent", "shown", 1, 2, 2, 0.5, 0.5),
        ("security", "car absent", "absent", 1, 2, 2, 0.5, 0.5),
    ]
    return pd.DataFrame(
        rows, columns=["task", "truth", "given", "count", "offered", "truths", "share", "share_offered"]
    )


def probe_rows():
    row = {
        "question_id": "q",
        "probe": "relationship",
        "category": "dog",
        "question": "Is there a dog on the left side of the car?",
        "band": "nir",
        "infrared": PICTURE,
    }
    said = [("base", "yes", True), ("fine_tuned", "no", False), ("other", None, True)]
    return pd.DataFrame([row | dict(zip(("model", "output", "claimed"), one, strict=True)) for one in said])


FIGURES = {
    "failure_cards": lambda: draw.failure_cards(answers(), "grounding"),
    "showcase_cards": lambda: draw.showcase_cards(answers()),
    "probe_cards": lambda: draw.probe_cards(probe_rows()),
    "hallucination": lambda: draw.hallucination(rates()),
    "confusions": lambda: draw.confusions(confused()),
}


def texts(figure):
    return {text.get_text(): to_hex(text.get_color()) for text in figure.findobj(mpl.text.Text) if text.get_text()}


def boxes(figure, colour):
    found = [patch for patch in figure.findobj(mpl.patches.Rectangle) if not patch.get_fill()]
    return [patch.get_bbox().extents.tolist() for patch in found if to_hex(patch.get_edgecolor()) == colour.lower()]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_the_same_bytes_when_drawn_again_and_leaves_the_style_alone(name):
    before = dict(mpl.rcParams)
    first, second = (plots.png(FIGURES[name](), dpi=40) for _ in range(2))
    assert first == second and first.startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", ["failure_cards", "showcase_cards", "probe_cards"])
def test_no_text_of_a_card_leaves_its_card(name):
    figure = FIGURES[name]()
    figure.canvas.draw()
    window = figure.bbox
    for text in figure.findobj(mpl.text.Text):
        if text.get_text():
            extent = text.get_window_extent()
            assert extent.x0 >= -1 and extent.x1 <= window.x1 + 1 and extent.y0 >= -1, text.get_text()


def test_a_card_says_what_was_asked_said_and_true():
    found = texts(draw.failure_cards(answers(), "grounding"))
    assert "worst 1" in found and "p 0.50, TIR" in found
    assert found["Q: Detect the bounding box of the car."] == draw.INK
    assert found["said: The target bounding box is"] == draw.SAID.lower()
    assert found["true: The target bounding box is"] == draw.TRUE.lower()


def test_boxes_are_drawn_where_they_were_meant():
    figure = draw.failure_cards(answers(), "grounding")
    # half of 64 pixels, less the half pixel between a pixel's edge and its centre
    assert boxes(figure, draw.TRUE) == [[31.5, -0.5, 63.5, 31.5]]
    np.testing.assert_allclose(boxes(figure, draw.SAID), [[5.9, 5.9, 31.5, 31.5]])


def test_an_answer_that_cannot_be_read_leaves_only_the_truth_in_the_picture():
    figure = draw.failure_cards(answers(output="It is over there."), "grounding")
    assert len(boxes(figure, draw.TRUE)) == 1
    assert boxes(figure, draw.SAID) == []
    assert "said: It is over there." in texts(figure)
    missing = texts(draw.failure_cards(answers(output=None, confidence=np.nan), "grounding"))
    assert "said: no answer" in missing and "TIR" in missing
    assert "said: (nothing)" in texts(draw.failure_cards(answers(output=""), "grounding"))


def test_points_and_cells_are_marked():
    points = answers(
        task="location", truth="[[500, 250]]", answer="a", output="<ref>car</ref> at <pos>[(250, 750)]</pos>"
    )
    figure = draw.failure_cards(points.assign(score=281.25), "location")
    offsets = [dots.get_offsets().tolist() for dots in figure.findobj(mpl.collections.PathCollection)]
    assert offsets == [[[31.5, 15.5]], [[15.5, 47.5]]]
    assert "error 281, p 0.50, TIR" in texts(figure)
    cells = draw.failure_cards(answers(task="reid", truth='"7"', answer="7", output="2"), "reid")
    assert boxes(cells, draw.TRUE) == [[32.0, 32.0, 47.0, 63.0]]
    assert boxes(cells, draw.SAID) == [[16.0, 0.0, 31.0, 31.0]]
    right = draw.showcase_cards(answers(task="reid", truth='"7"', answer="7", output="7", kind="good"))
    assert boxes(right, draw.SAID) == []
    assert "said: 7" in texts(right) and "true: 7" not in texts(right)


def test_both_orders_stand_in_the_heading():
    assert "worst 2, confident 1" in texts(draw.failure_cards(answers(worst=2, confident=1), "grounding"))
    assert "confident 3" in texts(draw.failure_cards(answers(worst=0, confident=3), "grounding"))


def test_a_long_answer_is_cut():
    found = texts(draw.failure_cards(answers(output="word " * 400), "grounding"))
    assert any(text.endswith("…") for text in found)


def test_a_good_answer_is_green():
    found = texts(draw.showcase_cards(answers(kind="good", output="fine")))
    assert found["said: fine"] == draw.TRUE.lower()
    assert "25% of answers are, TIR" in found


def test_a_model_that_sees_what_is_not_there_is_orange():
    found = texts(draw.probe_cards(probe_rows()))
    assert "Relationship: no dog here" in found
    assert found["base: yes"] == draw.SAID.lower()
    assert found["fine-tuned: no"] == draw.TRUE.lower()
    assert found["other: no answer"] == draw.SAID.lower()


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="no row to show"):
        draw.failure_cards(answers(), "scene")
    with pytest.raises(ValueError, match="lacks the columns \\['worst'\\]"):
        draw.failure_cards(answers().drop(columns="worst"), "grounding")
    with pytest.raises(RecordError, match="worst 1"):
        draw.failure_cards(answers(infrared=b"no image"), "grounding")
    with pytest.raises(ValueError, match="9 models for 8 colours"):
        draw.hallucination(rates(models=[f"m{i}" for i in range(9)]))


def test_false_alarms_are_filled_and_hits_hollow():
    figure = draw.hallucination(rates(models=["base"], probes=["security"]))
    left, right = figure.axes[:2]
    marks = [(list(line.get_xdata()), to_hex(line.get_markerfacecolor())) for line in left.lines]
    marks = [(x, face) for x, face in marks if x in ([40.0], [50.0])]
    assert marks == [([40.0], plots.OTHER_COLOURS[0].lower()), ([50.0], "#ffffff")]
    assert [60.0] in [list(line.get_xdata()) for line in right.lines]
    assert "Security\n7 absent, 5 present" in texts(figure)
    assert any(text.startswith("Grounding (cannot deny)") for text in texts(draw.hallucination(rates())))


def test_rates_are_written_with_their_limits():
    table = draw.rate_table(rates())
    assert table.loc[("security", "base"), "hit"] == "50.0 (30.0 to 100.0)"
    assert list(table.columns) == ["false alarm", "hit", "balanced accuracy", "d prime"]
    unknown = draw.rate_table(rates().assign(value=np.nan))
    assert unknown.loc[("security", "base"), "hit"] == ""


def test_a_confusion_is_counted_in_its_cell():
    figure = draw.confusions(confused())
    left, right = figure.axes[:2]
    assert [text.get_text() for text in left.texts] == ["3", "1/2", "0"]
    assert [label.get_text() for label in left.get_xticklabels()] == ["car", "dog", "no answer"]
    assert [label.get_text() for label in right.get_xticklabels()] == ["shown", "absent", "no answer"]
    assert [label.get_text() for label in right.get_yticklabels()] == ["car shown (2)", "car absent (2)"]
    with pytest.raises(ValueError, match="no row to show"):
        draw.confusions(confused().head(0))
