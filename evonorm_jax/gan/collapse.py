"""Signs in the metrics of a run that generator and discriminator have collapsed."""

from __future__ import annotations

from collections.abc import Mapping

# The discriminator tells everything apart in the first hundred steps of good runs, too.
_STEPS_APART = 500


class CollapseAlarms:
    """Looks for signs of collapse in the metrics of a run.

    Args:
      log_every_steps: Number of steps that the run takes the means of its metrics over.
    """

    def __init__(self, log_every_steps: int):
        self._log_every_steps = log_every_steps
        self._steps_apart = 0

    def __call__(self, values: Mapping[str, float]) -> dict[str, str]:
        """Returns a message for each symptom of collapse, by the name of the symptom.

        It must be called in the order in which a run logs its metrics.

        Args:
          values: Means of the metrics of the last steps, or the results of an evaluation, by their
            full names.

        >>> alarms = CollapseAlarms(log_every_steps=250)
        >>> [list(alarms({"discriminator_loss": 0.0})) for _ in range(3)]
        [[], ['discriminator_loss'], ['discriminator_loss']]
        """
        found = {}
        if "discriminator_loss" in values:
            apart = values["discriminator_loss"] < 0.01
            self._steps_apart = (self._steps_apart + self._log_every_steps) * apart
            if self._steps_apart >= _STEPS_APART:
                found["discriminator_loss"] = (
                    f"The discriminator's loss has been 0 for {self._steps_apart} steps: it tells "
                    "all images apart, and the generator learns nothing from it. Lower "
                    "config.discriminator_optimizer.learning_rate or config.discriminator_steps."
                )
        return found | _alarms_of_samples(values)


def _alarms_of_samples(values: Mapping[str, float]) -> dict[str, str]:
    found = {}
    variance = values.get("samples/within_class_variance", 1.0)
    accuracy = values.get("samples/conditional_accuracy", 0.0)
    if variance < 0.1 and accuracy > 0.5:
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
