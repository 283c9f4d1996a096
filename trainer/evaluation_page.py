"""Evaluation page: one self-contained page on the figures of a run's network on a build, its own or another."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facepack.page import rendered
from facepack.storage import Store
from trainer import mistakes, run_record
from trainer.evaluation import Evaluation
from trainer.mistakes import Worst
from trainer.plots import Plot
from trainer.results import groups
from trainer.results.protocol import Figure, ResultTable

PAGE_FILE = "evaluation.html"


@dataclass(frozen=True)
class SplitSection:
    """All that the page shows of a split."""

    split: str
    num: int
    headline: list[Figure]
    facts: list[tuple[str, str]]
    plots: list[Plot]
    tables: list[ResultTable]
    worst: Worst


def write(evaluation: Evaluation) -> Path:
    """Write evaluation.html beside the scores, on all splits that scores.json holds; gives its path."""
    shown = {
        "name": evaluation.run_name,
        "recipe": evaluation.run.recipe_name,
        "facts": _facts(evaluation),
        "notes": list(_notes(evaluation)),
        "sections": [_section(evaluation, split) for split in _splits(evaluation)],
    }
    content = rendered(Path(__file__).with_name("evaluation.html"), **shown)
    Store(str(evaluation.folder)).write(PAGE_FILE, content.encode("utf-8", "backslashreplace"))
    return evaluation.folder / PAGE_FILE


def _splits(evaluation: Evaluation) -> list[str]:
    """The one that counts first."""
    return [split for split in ("test", "valid", "train") if split in evaluation.results]


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    facts = [
        (f"build of {build.configuration.dataset}", f"{build.location}, {build.digest[:16]}")
        for build in evaluation.builds
    ]
    facts.append(("network", f"{evaluation.run.recipe.network}, epoch {evaluation.scores.epoch + 1}"))
    facts.append(("images", f"{evaluation.run.size_hw[1]}x{evaluation.run.size_hw[0]} pixels"))
    if evaluation.run.recipe.calibrate:
        facts.append(("temperature", f"{evaluation.scores.temperature:.2f}"))
    return facts


def _notes(evaluation: Evaluation) -> Iterator[str]:
    """What a reader might misread."""
    if not evaluation.is_own:
        trained_on = ", ".join(_title(build.configuration.dataset, build.location) for build in evaluation.run.mixed)
        yield f"This is another build than the network was trained on: {trained_on}."
    yield from evaluation.seen_lines(_splits(evaluation))
    if evaluation.is_own and "train" in evaluation.results:
        yield "The network has learnt from the images of train, so its figures say nothing of new images."
    fits = evaluation.run.recipe.task.results.fits_thresholds
    if evaluation.is_own and "valid" in evaluation.results and (evaluation.run.recipe.calibrate or fits):
        yield "The network was calibrated on valid, so the figures of valid are a little too good."


def _title(dataset: str, location: str) -> str:
    return f"{dataset} ({location})"


def _section(evaluation: Evaluation, split: str) -> SplitSection:
    run, results = evaluation.run, evaluation.results[split]
    predictions = run_record.predictions_in(evaluation.folder, split)
    by_group = evaluation.scores.groups.get(split, ())
    return SplitSection(
        split=split,
        num=results.num,
        headline=results.headline(),
        facts=list(results.facts().items()),
        plots=results.plots(split, names=run.names, predictions=predictions),
        tables=[*results.tables(split), *groups.tables(by_group, split=split, score=run.recipe.task.score)],
        worst=mistakes.worst(predictions, run=run, builds=evaluation.builds),
    )
