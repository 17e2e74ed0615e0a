"""What the metrics of a run mean, and which one it is judged by.

A task declares them, its run directories keep them in `metadata.json`, and whatever shows a run
reads them there. A metric is logged as `PART/NAME`, such as `eval/top1`, where the part says what
it was measured on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.run_files import METADATA_FILE, is_number

#: What real data reach in a metric is logged as its name with this behind it.
REAL_SUFFIX = "_real"


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
      label: Name in prose, for axes and tables, such as "top-1 accuracy".
      unit: Unit in which it is shown; "%" for a fraction, which is shown in percent.
      higher_is_better: Whether the larger of two values is the better one; None where neither is,
        such as a variance that should be that of real data.
      short: Name in single lines and headings, such as "accuracy"; the label by default.
      detail: Whether single lines leave it out.
      digits: Decimals in tables of means, of the value in its unit.
    """

    label: str
    unit: str = ""
    higher_is_better: bool | None = False
    short: str = ""
    detail: bool = False
    digits: int = 1

    @property
    def factor(self) -> float:
        """The factor from the logged value to the one that is shown."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def axis_label(self) -> str:
        """The name with the unit, such as `top-1 accuracy (%)`."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def heading(self) -> str:
        """The short name, or the label where there is none."""
        return self.short or self.label

    @property
    def column(self) -> str:
        """The heading of a column, with the unit and an arrow towards the better values.

        >>> Metric("top-1 accuracy", "%", higher_is_better=True, short="accuracy").column
        'accuracy (%) ↑'
        """
        unit = f" ({self.unit})" if self.unit else ""
        arrow = {True: " ↑", False: " ↓", None: ""}[self.higher_is_better]
        return f"{self.heading}{unit}{arrow}"

    def format(self, value: float) -> str:
        """Formats a logged value.

        >>> Metric("top-1 accuracy", "%").format(0.9861), Metric("cross-entropy", "nats").format(1)
        ('98.61 %', '1.0000')
        """
        return f"{self.factor * value:.2f} %" if self.unit == "%" else f"{value:.4f}"


@dataclasses.dataclass(frozen=True)
class RunMetrics:
    """The metrics of one run.

    Attributes:
      main_metric: Full name of the one that the run is judged by, such as "eval/top1".
      shown: Names, without their part, of those that a progress line and a curve show.
      known: How metrics are shown, by their names without the part.
      tabled: Names, without the part of the main metric, of those that the report of a sweep has a
        table of. What real data reach in one of them is logged as its name with `REAL_SUFFIX`.
      counts: Names of the numbers of examples that stand beside that table.
    """

    main_metric: str
    shown: tuple[str, ...]
    known: Mapping[str, Metric]
    tabled: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()

    @property
    def main(self) -> Metric:
        """How the main metric is shown."""
        return self.find(self.main_metric)

    @property
    def main_part(self) -> str:
        """The part of the main metric, "eval", or "eval_ema" for averaged weights."""
        return self.main_metric.rpartition("/")[0]

    @property
    def main_name(self) -> str:
        """The main metric without its part, such as "top1"."""
        return self.main_metric.rpartition("/")[2]

    @property
    def others(self) -> tuple[str, ...]:
        """Those that are shown beside the main metric."""
        return tuple(name for name in self.shown if name != self.main_name)

    @property
    def reported(self) -> tuple[str, ...]:
        """All beside the main metric that the report of a sweep may need, each once."""
        real = (f"{name}{REAL_SUFFIX}" for name in self.tabled)
        names = dict.fromkeys((*self.shown, *self.tabled, *real, *self.counts))
        return tuple(name for name in names if name != self.main_name)

    def find(self, name: str) -> Metric:
        """How a metric is shown, by its name with or without the part; any name has an answer."""
        name = name.rpartition("/")[2]
        return self.known.get(name, Metric(name.replace("_", " ")))

    def format_line(self, values: Mapping[str, float]) -> str:
        """Formats metrics as one line, those alone that are shown or known, without details.

        >>> CLASSIFICATION.format_line({"eval/loss": 0.25, "eval/top1": 0.9861, "eval/examples": 9})
        'eval/loss 0.2500  eval/top1 98.61 %'
        """
        return "  ".join(
            f"{name} {self.find(name).format(value)}"
            for name, value in values.items()
            if name.rpartition("/")[2] in (*self.shown, *self.known) and not self.find(name).detail
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the same as JSON's types."""
        return {
            "main_metric": self.main_metric,
            "shown": list(self.shown),
            "known": {name: dataclasses.asdict(metric) for name, metric in self.known.items()},
            "tabled": list(self.tabled),
            "counts": list(self.counts),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> RunMetrics:
        """Reads what `to_json` returned.

        >>> RunMetrics.from_json(CLASSIFICATION.to_json()) == CLASSIFICATION
        True
        """
        known = {name: Metric(**metric) for name, metric in fields["known"].items()}
        metrics = cls(fields["main_metric"], tuple(fields["shown"]), known)
        if "tabled" not in fields:  # of a run from before reports had such a table
            return _with_table(metrics)
        tabled, counts = (tuple(fields[name]) for name in ("tabled", "counts"))
        return dataclasses.replace(metrics, tabled=tabled, counts=counts)


#: Those of classifiers, which are also the ones of run directories from before there were tasks.
CLASSIFICATION = RunMetrics(
    main_metric="eval/top1",
    shown=("loss", "top1"),
    known={
        "loss": Metric("cross-entropy", "nats"),
        "top1": Metric("top-1 accuracy", "%", higher_is_better=True, short="accuracy"),
        "top5": Metric("top-5 accuracy", "%", higher_is_better=True),
    },
)
#: The same for runs that keep averaged weights, which are what they are judged by.
CLASSIFICATION_EMA = dataclasses.replace(CLASSIFICATION, main_metric="eval_ema/top1")


def instance_segmentation_metrics(max_dets: Sequence[int], *, ema: bool = False) -> RunMetrics:
    """Those of instance segmentation: COCO's average precision (AP) and average recall (AR).

    Args:
      max_dets: Detections of an image and a category that count; there is an AR for each.
      ema: Whether the run keeps averaged weights, which are then what it is judged by.
    """
    known = {"loss": Metric("sum of the losses")}
    for kind in ("box", "mask"):
        known[f"{kind}_ap"] = Metric(f"{kind} AP", "%", higher_is_better=True)
        known[f"{kind}_ap50"] = Metric(
            f"{kind} AP at IoU 0.5", "%", higher_is_better=True, short=f"{kind} AP50"
        )
        known[f"{kind}_ap75"] = Metric(
            f"{kind} AP at IoU 0.75", "%", higher_is_better=True, short=f"{kind} AP75", detail=True
        )
        details = {f"ap_{size}": f"AP of {size} objects" for size in ("small", "medium", "large")}
        details |= {f"ar{count}": f"AR of {count} detections" for count in max_dets}
        for name, label in details.items():
            known[f"{kind}_{name}"] = Metric(
                f"{kind} {label}", "%", higher_is_better=True, detail=True
            )
    return RunMetrics(
        main_metric="eval_ema/mask_ap" if ema else "eval/mask_ap",
        shown=("loss", "box_ap", "mask_ap"),
        known=known,
        # The columns of the paper's Table 4.
        tabled=tuple(f"{kind}_ap{iou}" for kind in ("mask", "box") for iou in ("", "50", "75")),
    )


def image_synthesis_metrics(main_metric: str) -> RunMetrics:
    """Those of image synthesis: what is made of samples, and the scores of the discriminator.

    Args:
      main_metric: "samples/fid" with FID's Inception network, "samples/classifier_fid" with a
        classifier, "eval/score_gap" without either.
    """
    name = main_metric.rpartition("/")[2]
    prefix = "classifier_" if name == "classifier_fid" else ""
    score = "classifier_score" if prefix else "inception_score"
    tabled = [f"{prefix}{metric}" for metric in ("fid", "kid", "precision", "recall")] + [score]
    if prefix:
        tabled += ["conditional_accuracy", "within_class_variance"]
    return RunMetrics(
        main_metric=main_metric,
        shown=("discriminator_loss", "generator_loss", name),
        known=_IMAGE_SYNTHESIS,
        tabled=tuple(tabled),
        counts=("num_samples", "num_reference", "num_real"),
    )


_IMAGE_SYNTHESIS = {
    "score_gap": Metric("score of real less that of generated images", short="score gap"),
    "discriminator_loss": Metric("loss of the discriminator"),
    "generator_loss": Metric("loss of the generator"),
    "fid": Metric("Fréchet Inception distance", short="FID", digits=2),
    "classifier_fid": Metric(
        "Fréchet distance, classifier's features", short="classifier FID", digits=2
    ),
    "kid": Metric("kernel Inception distance", short="KID", detail=True, digits=4),
    "classifier_kid": Metric(
        "kernel distance, classifier's features", short="classifier KID", detail=True, digits=4
    ),
    "inception_score": Metric("Inception Score", higher_is_better=True, digits=2),
    "classifier_score": Metric(
        "Inception Score's formula, classifier",
        higher_is_better=True,
        short="classifier score",
        digits=2,
    ),
    "conditional_accuracy": Metric(
        "samples of their class", "%", higher_is_better=True, short="conditional accuracy"
    ),
    "within_class_variance": Metric(
        "variance within a class, reference = 1",
        higher_is_better=None,
        short="within-class variance",
        digits=2,
    ),
    **{
        f"{prefix}{name}": Metric(name, "%", higher_is_better=True)
        for prefix in ("", "classifier_")
        for name in ("precision", "recall")
    },
    "num_samples": Metric("samples", detail=True),
    "num_reference": Metric("reference images", detail=True),
    "num_real": Metric("held-out real images", detail=True),
}


def _with_table(metrics: RunMetrics) -> RunMetrics:
    """Adds the table of a sweep's report, as the task of these metrics declares it now."""
    if metrics.main_name == "mask_ap":
        declared = instance_segmentation_metrics(())
    elif metrics.main_name in ("fid", "classifier_fid", "score_gap"):
        declared = image_synthesis_metrics(metrics.main_metric)
    else:
        return metrics
    known = {**metrics.known, **declared.known}
    return dataclasses.replace(metrics, known=known, tabled=declared.tabled, counts=declared.counts)


def metrics_of_run(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> RunMetrics:
    """The metrics of a run, from its `metadata.json` and its `config.json`.

    Raises:
      UserError: The metadata say something else of them than a run writes.
    """
    if "metrics" in metadata:
        try:
            metrics = RunMetrics.from_json(metadata["metrics"])
            _check_texts(metrics)
            return metrics
        except (LookupError, TypeError, AttributeError) as error:
            raise UserError(
                f"The field 'metrics' of {METADATA_FILE} is damaged ({error}); move the file away, "
                "and the next start of the run writes it anew."
            ) from None
    ema_decay = config.get("ema_decay", 0.0)
    return CLASSIFICATION_EMA if is_number(ema_decay) and ema_decay > 0 else CLASSIFICATION


def _check_texts(metrics: RunMetrics) -> None:
    """Raises `TypeError` unless all that is shown of metrics beside numbers is text."""
    known = metrics.known.values()
    texts = [text for metric in known for text in (metric.label, metric.unit, metric.short)]
    for text in (metrics.main_metric, *metrics.shown, *texts):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is no text")
