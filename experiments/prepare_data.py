"""Downloads a data set (TensorFlow Datasets) or weights of timm, or packs a class folder.

Examples:
  python -m experiments.prepare_data --dataset=cifar10
  python -m experiments.prepare_data --dataset=imagenet2012 --data_dir=/data/tfds --manual_dir=/data
  python -m experiments.prepare_data --from_folder=photos --image_size=64 --npz=photos64.npz
  python -m experiments.prepare_data --weights=resnetv2_50d_evos.ah_in1k

Nothing else here touches the network. ImageNet cannot be downloaded: register at image-net.org, put
ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into --manual_dir, then run the second line (it
needs 300 GB and hours).
"""

import argparse
import os
import shutil
from pathlib import Path

import numpy as np

from evonorm_jax.data.config import check_fields, dataset_config
from evonorm_jax.data.folder import load_class_folder
from evonorm_jax.data.tf_import import require_tensorflow
from evonorm_jax.errors import UserError
from evonorm_jax.interop import load_timm_weights
from evonorm_jax.interop.pretrained import HUB_FILE, find_weights
from evonorm_jax.run_files import replacing
from experiments.launch import check_output, user_path
from experiments.process import run_main

# TFDS retries a download 10 times and doubles the pause: 205 s until a machine without a network
# hears of it. Four times are 3 s.
DOWNLOAD_RETRIES = 4


def prepare(dataset: str, data_dir: str, manual_dir: str) -> str:
    """Downloads and prepares a TFDS set as TFRecord, if it is not there yet.

    Returns:
      The folder of the prepared set.

    Raises:
      UserError: The set is unknown, files are missing that must be put there by hand, or the
        download fails.
    """
    require_tensorflow(purpose=f"Preparing '{dataset}'", tfds=True)
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    from evonorm_jax.data import tfds_source

    builder = tfds_source.find_builder(dataset, data_dir)
    if builder.is_prepared():
        return str(builder.data_path)
    root = tfds_source.data_dir(builder)
    manual = Path(manual_dir or f"{root}/downloads/manual")
    if missing := [
        name for name in tfds_source.manual_files(builder) if not (manual / name).is_file()
    ]:
        raise UserError(
            f"'{dataset}' cannot be downloaded, and {' and '.join(missing)} are not in {manual}:"
            " register at image-net.org, download them, and put them there or give the folder by"
            " --manual_dir."
        )
    downloader.MAX_RETRIES = DOWNLOAD_RETRIES
    config = tfds.download.DownloadConfig(manual_dir=manual_dir or None)
    try:
        builder.download_and_prepare(download_config=config, file_format="tfrecord")
    # Also AssertionError: TFDS's way to say that files must be put there by hand.
    except (OSError, AssertionError, tfds.download.DownloadError) as error:
        raise UserError(
            f"'{dataset}' could not be prepared in {root}: {error}\n"
            "  behind a proxy: set HTTPS_PROXY; without a network: copy a prepared folder to"
            f" {root}/{builder.info.full_name}"
        ) from error
    return str(builder.data_path)


def pack_folder(
    folder: str, path: Path, image_size: int, splits: tuple[str, str], *, overwrite: bool = False
) -> tuple[int, int]:
    """Writes a class folder as an .npz file that the source "npz" reads.

    Returns:
      The numbers of training and of evaluation images.

    Raises:
      UserError: The file cannot be written or the image size is impossible, which is found before
        anything is read; or the folder cannot be packed.
    """
    if path.is_dir() or not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise UserError(
            f"'{path}' cannot be written: --npz must name a file in a folder that exists and that"
            " you may write to."
        )
    check_output(path, "--npz", overwrite=overwrite)
    config = dataset_config(
        "folder",
        "folder",
        path=folder,
        in_memory=True,
        image_size=image_size,
        resize_size=0,
        train_split=splits[0],
        eval_split=splits[1],
    )
    check_fields(config)
    arrays = load_class_folder(config)
    # Whole or not at all: an interrupted run must not leave a torn file under the final name.
    try:
        # A stream, because savez would append .npz to a name.
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(
                stream,
                x_train=arrays.train_images,
                y_train=arrays.train_labels,
                x_test=arrays.eval_images,
                y_test=arrays.eval_labels,
                class_names=np.array(arrays.class_names),
            )
    except OSError as error:
        raise UserError(f"'{path}' cannot be written ({error}).") from error
    return len(arrays.train_images), len(arrays.eval_images)


def download_weights(name: str, folder: Path) -> str:
    """Downloads weights that timm has published on the Hugging Face Hub, unless they are there.

    Args:
      name: Name of the network with the tag of the weights, such as "resnet50.a1_in1k".
      folder: Where `<name>.safetensors` is written.

    Returns:
      What to tell the user.

    Raises:
      UserError: There are no such weights, huggingface_hub is missing, or the download fails.
    """
    weights = find_weights(name)
    path = folder / f"{name}.safetensors"
    if path.is_file():
        return f"{path} is there already"
    by_hand = (
        f"Or download {HUB_FILE} of the repository {weights.repository} by other means, and save "
        f"it as {path}."
    )
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise UserError(
            "Downloading weights needs the package huggingface_hub: in the clone, pip install -e "
            f"'.[hub]'; elsewhere, pip install huggingface_hub. {by_hand}"
        ) from error
    try:
        cached = huggingface_hub.hf_hub_download(weights.repository, HUB_FILE)
    except OSError as error:  # all of the package's errors about the network are
        raise UserError(
            f"{weights.repository} could not be downloaded: {error}\n{by_hand}"
        ) from error
    load_timm_weights(cached, name)  # all tensors of that network, and no others
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        shutil.copyfile(cached, temporary)
    return f"{path}: {path.stat().st_size / 1e6:.0f} MB, licence {weights.licence}"


def main() -> None:
    """Parses the command line and prepares."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.prepare_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", help="name of a TFDS set: cifar10, cifar100, imagenet2012, ...")
    what.add_argument(
        "--weights", metavar="TIMM_NAME", help="weights of timm with their tag: resnet50.a1_in1k"
    )
    what.add_argument(
        "--from_folder",
        type=user_path,
        metavar="FOLDER",
        help="class folder <split>/<class>/<image> to pack",
    )
    parser.add_argument(
        "--data_dir",
        type=os.path.expanduser,  # a bucket (gs://...) is no Path
        default="",
        metavar="FOLDER",
        help="where TFDS keeps its sets (its default)",
    )
    parser.add_argument(
        "--manual_dir",
        type=os.path.expanduser,
        default="",
        metavar="FOLDER",
        help="where files lie that you downloaded",
    )
    parser.add_argument(
        "--weights_dir",
        type=user_path,
        default="weights",
        metavar="FOLDER",
        help="where --weights are written",
    )
    parser.add_argument(
        "--npz", type=user_path, metavar="FILE.npz", help="file to write for --from_folder"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --npz")
    parser.add_argument("--image_size", type=int, default=32, help="pixels, for --from_folder")
    parser.add_argument("--train_split", default="train", help="for --from_folder")
    parser.add_argument("--eval_split", default="test", help="for --from_folder")
    arguments = parser.parse_args()
    if arguments.dataset:
        print(prepare(arguments.dataset, arguments.data_dir, arguments.manual_dir))
    elif arguments.weights:
        print(download_weights(arguments.weights, arguments.weights_dir))
    elif not str(arguments.npz).endswith(".npz"):
        raise UserError(
            f"--from_folder needs --npz=FILE.npz to write to, not '{arguments.npz or ''}'."
        )
    else:
        splits = (arguments.train_split, arguments.eval_split)
        train, evaluation = pack_folder(
            str(arguments.from_folder),
            arguments.npz,
            arguments.image_size,
            splits,
            overwrite=arguments.overwrite,
        )
        print(f"{arguments.npz}: {train} training and {evaluation} evaluation images")


if __name__ == "__main__":
    run_main(main)
