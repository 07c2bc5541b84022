"""Statistics over seeds, and the choice of a setting, against numbers computed by hand."""

import pytest

from bertjax.errors import InputError
from bertjax.sweep import paper
from bertjax.sweep.glue_submission import FOLDERS
from bertjax.sweep.results import Finished, as_markdown, as_text, collect, metric_of, summarize


def runs(task, setting, values, metric="eval/accuracy", **others):
    return [
        Finished(task, setting, seed, f"{task}/{setting}/{seed}", {metric: value, **others})
        for seed, value in enumerate(values)
    ]


def test_statistics():
    assert summarize([0.5, 0.7, 0.9, 0.7]) == {
        "mean": pytest.approx(0.7),
        "std": pytest.approx((0.08 / 3) ** 0.5),  # of the sample: n - 1
        "median": pytest.approx(0.7),
        "best": 0.9,
    }
    assert summarize([0.25]) == {"mean": 0.25, "std": None, "median": 0.25, "best": 0.25}
    for values in ([], [0.5, None], [0.5, float("nan")]):
        assert set(summarize(values).values()) == {None}


def test_the_best_mean_is_chosen_and_not_the_best_run():
    found = collect([*runs("rte", "a", [0.9, 0.5]), *runs("rte", "b", [0.75, 0.8])], seeds=2)
    result = found["tasks"]["rte"]
    assert [s["setting"] for s in result["settings"]] == ["b", "a"]
    assert result["settings"][0]["best_run"] == "rte/b/1"
    assert result["settings"][0]["figures"]["eval/accuracy"]["mean"] == pytest.approx(0.775)


@pytest.mark.parametrize("other", [[0.95], [0.95, None]], ids=["a run less", "a run that came to nothing"])
def test_settings_with_all_their_runs_come_first(other):
    found = collect([*runs("rte", "a", other), *runs("rte", "b", [0.6, 0.6])], seeds=2)
    assert found["tasks"]["rte"]["settings"][0]["setting"] == "b"
    assert ("1 of 2" in as_text(found, 2)) == (len(other) == 1)


def test_the_figure_that_is_compared():
    assert (
        metric_of("stsb", {"eval/pearson": 0.1, "eval/spearman": 0.2}, "") == "eval/spearman"
    )  # the paper's
    assert metric_of("mine", {"loss": 1.0, "eval/f1": 0.1, "eval/accuracy": 0.2}, "") == "eval/f1"
    assert metric_of("mine", {"eval/f1": 0.1, "eval/accuracy": 0.2}, "eval/accuracy") == "eval/accuracy"
    with pytest.raises(InputError, match=r"--metric=eval/bleu: mine has no such figure; it has eval/f1"):
        metric_of("mine", {"eval/f1": 0.1}, "eval/bleu")


def glue_runs(value):
    for task, figures in paper.FIGURES.items():
        if task in FOLDERS:
            yield Finished(task, "", 0, task, {figure.metric: value(figure) for figure in figures})


def test_the_papers_average_follows_from_the_papers_figures():
    for size in ("base", "large"):
        found = collect(glue_runs(lambda figure, size=size: getattr(figure, size) / 100), seeds=1)
        assert round(100 * found["glue_average"]["mean"], 1) == getattr(paper.GLUE_AVERAGE, size)


def test_no_average_where_a_task_is_missing():
    all_but_one = [run for run in glue_runs(lambda figure: 0.5) if run.task != "cola"]
    assert collect(all_but_one, seeds=1)["glue_average"] is None


def test_tables_name_figures_and_stand_beside_the_papers():
    mnli = runs("mnli", "learning_rate=3e-05", [0.8, 0.82], **{"eval_dev_mismatched/accuracy": 0.79})
    found = collect([*mnli, *runs("wnli", "", [0.5634], "eval/accuracy")], seeds=2)
    text, markdown = as_text(found, 2), as_markdown(found, 2)
    lines = [" ".join(line.split()) for line in text.split("\n")]
    assert "learning_rate=3e-05 81.00 1.41 81.00 82.00 2" in lines
    assert ("mnli eval/accuracy (MNLI-m accuracy) learning_rate=3e-05 81.00 1.41 81.00 82.00 2 84.6 86.7 "
            "GLUE's test server") in lines  # fmt: skip
    squad = as_text(collect(runs("squad-v2.0", "", [0.8], "eval/f1"), 1), 1)
    assert "80.00  1     -          81.9" in squad
    assert "wnli eval/accuracy as the config 56.34 - 56.34 56.34 1 of 2 - - -" in lines
    assert ("| mnli eval_dev_mismatched/accuracy (MNLI-mm accuracy) | learning_rate=3e-05 | 79.00 | 0.00 "
            "| 79.00 | 79.00 | 2 | 83.4 | 85.9 | GLUE's test server |") in markdown.split("\n")  # fmt: skip
    for form in (text, markdown):
        assert "dev figures differ" in form
        assert "average" not in form
