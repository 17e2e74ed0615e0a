"""Signs that a pair of players has collapsed, from what a run logs."""

from __future__ import annotations

from collections.abc import Mapping


def find_alarms(values: Mapping[str, float]) -> dict[str, str]:
    """Says which signs of collapse there are in logged values.

    Args:
      values: Means of a training step's metrics, or what an evaluation gave, by their full names.

    Returns:
      Messages by the symptom.

    >>> list(find_alarms({"discriminator_loss": 0.0}))
    ['discriminator_loss']
    """
    found = {}
    if values.get("discriminator_loss", 1.0) < 0.01:
        found["discriminator_loss"] = (
            f"The discriminator's loss is {values['discriminator_loss']:.2g}: it tells all images "
            "apart, and the generator learns nothing from it. Lower "
            "config.discriminator_optimizer.learning_rate or config.discriminator_steps."
        )
    variance = values.get("samples/within_class_variance")
    accuracy = values.get("samples/conditional_accuracy", 0.0)
    if variance is not None and variance < 0.1 and accuracy > 0.5:
        found["within_class_variance"] = (
            f"The samples of a class vary {variance:.2g} times as much as real images: the "
            "generator has collapsed to few pictures. Take an earlier checkpoint, and a wider "
            "discriminator (config.model.fields.discriminator_num_filters)."
        )
    prefix = "samples/classifier_" if "samples/classifier_recall" in values else "samples/"
    recall, precision = (values.get(f"{prefix}{name}", 1.0) for name in ("recall", "precision"))
    if recall < 0.05 and precision > 0.3:
        found["recall"] = (
            f"The samples cover {recall:.1%} of the real images (recall) while {precision:.0%} of "
            "them look real (precision): the generator has dropped most of the data. Take an "
            "earlier checkpoint."
        )
    return found
