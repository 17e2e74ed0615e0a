"""Each alarm names its symptom, and only where it is one."""

from evonorm_jax.gan.collapse import CollapseAlarms

HEALTHY = {
    "samples/within_class_variance": 0.9,
    "samples/conditional_accuracy": 0.98,
    "samples/classifier_recall": 0.7,
    "samples/classifier_precision": 0.8,
}


def test_a_discriminator_that_has_won():
    alarms = CollapseAlarms(log_every_steps=100)
    losses = [0.0] * 4 + [0.5] + [0.0] * 5
    raised = [alarms({"discriminator_loss": loss}) for loss in losses]
    assert [bool(found) for found in raised] == [False] * 9 + [True]
    assert "has been 0 for 500 steps" in raised[-1]["discriminator_loss"]


def test_samples():
    alarms = CollapseAlarms(log_every_steps=100)
    assert alarms(HEALTHY) == {}
    assert list(alarms(HEALTHY | {"samples/within_class_variance": 0.02})) == [
        "within_class_variance"
    ]
    assert list(alarms(HEALTHY | {"samples/classifier_recall": 0.01})) == ["recall"]
    assert list(alarms({"samples/recall": 0.01, "samples/precision": 0.6})) == ["recall"]
    # A generator that has not learned anything yet has not collapsed.
    young = {"samples/conditional_accuracy": 0.1, "samples/classifier_precision": 0.0}
    young |= {"samples/within_class_variance": 0.01, "samples/classifier_recall": 0.0}
    assert alarms(young) == {}
