import subprocess
import sys
import types

import numpy as np
import pytest

from evonorm_jax.data import create_pipeline, dataset_config
from evonorm_jax.errors import UserError
from evonorm_jax.interop import load_timm_weights, timm_tensors
from evonorm_jax.interop.safetensors_file import write_safetensors
from experiments import prepare_data
from tests.data.conftest import smooth_image


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["prepare_data", *arguments])
    prepare_data.main()


def test_pack_a_folder(monkeypatch, capsys, image_folder, tmp_path):
    file = tmp_path / "packed.npz"
    run_main(
        monkeypatch,
        f"--from_folder={image_folder}",
        f"--npz={file}",
        "--image_size=16",
        "--eval_split=val",
    )
    assert "17 training and 11 evaluation images" in capsys.readouterr().out
    size = {"image_size": 16, "resize_size": 0, "in_memory": True}
    packed = create_pipeline(dataset_config("own", "npz", path=str(file), **size), seed=0)
    folder = create_pipeline(
        dataset_config("own", "folder", path=str(image_folder), **size), seed=0
    )
    assert packed.class_names == folder.class_names == ("ant", "bee", "cat")
    for name, leaf in folder.resident().items():
        np.testing.assert_array_equal(packed.resident()[name], leaf)


@pytest.mark.parametrize("target", ["missing/x.npz", "folder.npz", "file/x.npz"])
def test_a_target_that_cannot_be_written_is_refused_before_reading(monkeypatch, tmp_path, target):
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(prepare_data, "load_class_folder", lambda config: pytest.fail("it read"))
    with pytest.raises(UserError, match=f"{target}' cannot be written: --npz must name a file"):
        run_main(monkeypatch, "--from_folder=photos", f"--npz={tmp_path / target}")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_packing_leaves_the_old_file(monkeypatch, image_folder, tmp_path, error):
    file = tmp_path / "packed.npz"
    file.write_bytes(b"old")

    def interrupted(stream, **arrays):
        stream.write(b"torn")
        raise error("No space left on device")

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    arguments = (
        f"--from_folder={image_folder}",
        f"--npz={file}",
        "--eval_split=val",
        "--overwrite",
    )
    expected = UserError if error is OSError else error
    with pytest.raises(expected, match="No space left"):
        run_main(monkeypatch, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["packed.npz"]
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize("size", [0, -1])
def test_an_impossible_image_size(monkeypatch, image_folder, tmp_path, size):
    file = tmp_path / "packed.npz"
    with pytest.raises(UserError, match=f"image_size is {size}, but must be a positive"):
        run_main(
            monkeypatch, f"--from_folder={image_folder}", f"--npz={file}", f"--image_size={size}"
        )
    assert list(tmp_path.iterdir()) == []


def test_packing_needs_a_file(monkeypatch, image_folder):
    with pytest.raises(UserError, match=r"needs --npz=FILE\.npz"):
        run_main(monkeypatch, f"--from_folder={image_folder}")


def test_dataset_or_folder(monkeypatch, capsys):
    for arguments in ([], ["--dataset=a", "--from_folder=b"]):
        with pytest.raises(SystemExit) as exit_:
            run_main(monkeypatch, *arguments)
        assert exit_.value.code == 2
    assert "--from_folder" in capsys.readouterr().err


@pytest.mark.tensorflow
def test_a_failed_download_is_one_message(monkeypatch, tmp_path):
    import tensorflow_datasets as tfds

    def no_network(self, **options):
        raise ConnectionError("Failed to resolve the host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
    with pytest.raises(UserError, match=r"'cifar10' could not be prepared .* Failed to resolve"):
        run_main(monkeypatch, "--dataset=cifar10", f"--data_dir={tmp_path}")


@pytest.mark.tensorflow
def test_a_prepared_set_is_left_alone(monkeypatch, capsys, tmp_path):
    import tensorflow_datasets as tfds

    tfds.dataset_builders.store_as_tfds_dataset(
        name="squares",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(8, 8, 3)),
                "label": tfds.features.ClassLabel(num_classes=1),
            }
        ),
        split_datasets={"train": [(0, {"image": smooth_image(0, 8, 8), "label": 0})]},
        data_dir=tmp_path,
    )
    capsys.readouterr()
    run_main(monkeypatch, "--dataset=squares", f"--data_dir={tmp_path}")
    assert capsys.readouterr().out.strip() == str(tmp_path / "squares" / "1.0.0")


@pytest.mark.tensorflow
def test_imagenet_names_the_missing_archives(tmp_path):
    (tmp_path / "ILSVRC2012_img_val.tar").touch()
    folders = (f"--data_dir={tmp_path / 'tfds'}", f"--manual_dir={tmp_path}")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.prepare_data", "--dataset=imagenet2012", *folders],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"ILSVRC2012_img_train.tar are not in {tmp_path}" in done.stderr
    assert "ILSVRC2012_img_val.tar" not in done.stderr
    assert "Traceback" not in done.stderr


WEIGHTS = "mobilenetv2_050.lamb_in1k"


def install_hub(monkeypatch, download):
    """A stand-in for huggingface_hub, which these tests must not need, nor a network."""
    hub = types.SimpleNamespace(hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)


def test_weights_are_downloaded_once(monkeypatch, tmp_path, capsys):
    cached, folder = tmp_path / "cached", tmp_path / "weights"
    tensors = timm_tensors(WEIGHTS)
    write_safetensors({n: np.ones(t.timm_shape, np.float32) for n, t in tensors.items()}, cached)
    asked = []

    def download(repository, filename):
        asked.append((repository, filename))
        return str(cached)

    install_hub(monkeypatch, download)
    for _ in range(2):
        run_main(monkeypatch, f"--weights={WEIGHTS}", f"--weights_dir={folder}")
    assert asked == [("timm/mobilenetv2_050.lamb_in1k", "model.safetensors")]
    (path,) = folder.iterdir()
    assert path.name == f"{WEIGHTS}.safetensors"
    assert path.read_bytes() == cached.read_bytes()
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{path}: 8 MB, licence apache-2.0"
    assert second == f"{path} is there already"
    assert load_timm_weights(path, WEIGHTS)["params"]["head"]["bias"].shape == (1000,)


def test_a_file_of_something_else_is_not_kept(monkeypatch, tmp_path):
    cached = tmp_path / "cached"
    write_safetensors({"x": np.ones(3, np.float32)}, cached)
    install_hub(monkeypatch, lambda repository, filename: str(cached))
    with pytest.raises(UserError, match="not those of timm's mobilenetv2_050"):
        run_main(monkeypatch, f"--weights={WEIGHTS}", f"--weights_dir={tmp_path / 'weights'}")
    assert not (tmp_path / "weights").exists()


def test_a_machine_without_a_network_hears_what_to_do(monkeypatch, tmp_path):
    def download(repository, filename):
        raise FileNotFoundError("cannot find the requested files in the local cache")

    install_hub(monkeypatch, download)
    message = (
        r"timm/mobilenetv2_050.lamb_in1k could not be downloaded: cannot find the requested files "
        r"in the local cache\nOr download model.safetensors .* and save it as .*weights/mobile"
    )
    with pytest.raises(UserError, match=message):
        run_main(monkeypatch, f"--weights={WEIGHTS}", f"--weights_dir={tmp_path / 'weights'}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            WEIGHTS,
            r"in the clone, pip install -e '\.\[hub\]'; elsewhere, .* Or download model\.safe",
        ),
        ("resnet50", r"Of this network: resnet50\.a1_in1k,"),
    ],
)
def test_weights_that_cannot_be_asked_for(monkeypatch, tmp_path, name, message):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=message):
        run_main(monkeypatch, f"--weights={name}", f"--weights_dir={tmp_path / 'weights'}")
    assert not list(tmp_path.iterdir())
