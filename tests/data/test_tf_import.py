"""TensorFlow is imported late, kept off the accelerators, and its absence is explained."""

import subprocess
import sys
import types

import pytest

from evonorm_jax.data import create_pipeline, dataset_config
from evonorm_jax.data.tf_import import hide_accelerators_from_tensorflow, require_tensorflow
from evonorm_jax.errors import UserError


def test_data_in_memory_needs_no_tensorflow():
    program = (
        "import sys\n"
        "from evonorm_jax.data import Hosts, create_pipeline, dataset_config\n"
        "digits = create_pipeline(dataset_config('digits', 'embedded'), seed=0)\n"
        "next(digits.train_batches(start_step=0, batch_size=8, hosts=Hosts()))\n"
        "sizes = dict(num_train_examples=8, num_eval_examples=8, num_classes=2)\n"
        "create_pipeline(dataset_config('imagenet2012', 'fake', **sizes), seed=0)\n"
        "assert not {'tensorflow', 'tensorflow_datasets', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_missing_tensorflow_is_explained(monkeypatch, in_memory):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    config = dataset_config("cifar10", "tfds", in_memory=in_memory, pad=0)
    with pytest.raises(UserError) as caught:
        create_pipeline(config, seed=0)
    message = str(caught.value)
    assert "'cifar10' from TFDS needs TensorFlow and tensorflow-datasets" in message
    assert 'pip install -e ".[data]"' in message
    assert "pip install -r requirements.txt" in message
    assert "python -m experiments.train --config configs/digits_resnet_evonorm_s0.py" in message


def test_a_missing_folder_comes_before_a_missing_tensorflow(monkeypatch, image_folder):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match="There is no folder"):
        create_pipeline(dataset_config("own", "folder", path="/does/not/exist"), seed=0)
    with pytest.raises(UserError, match=r"Streaming 'own' needs TensorFlow, and the") as caught:
        create_pipeline(dataset_config("own", "folder", path=str(image_folder)), seed=0)
    assert "the same data without:  --config.dataset.in_memory=True\n" in str(caught.value)


def test_a_missing_tfds_is_explained(monkeypatch):
    fake = types.SimpleNamespace(
        config=types.SimpleNamespace(set_visible_devices=lambda devices, kind: None)
    )
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    require_tensorflow(purpose="A test")
    with pytest.raises(UserError, match=r"A test needs TensorFlow and tensorflow-datasets"):
        require_tensorflow(purpose="A test", tfds=True)


def test_accelerators_are_hidden(monkeypatch, caplog):
    hidden = []
    fake = types.SimpleNamespace(
        config=types.SimpleNamespace(
            set_visible_devices=lambda devices, kind: hidden.append((devices, kind))
        )
    )
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    require_tensorflow()
    assert hidden == [([], "GPU"), ([], "TPU")]
    hide_accelerators_from_tensorflow()
    assert hidden == [([], "GPU"), ([], "TPU")] * 2

    def refuse(devices, kind):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    fake.config.set_visible_devices = refuse
    require_tensorflow(purpose="A test")
    assert "may hold accelerator memory" in caplog.text
