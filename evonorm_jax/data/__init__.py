"""Data sets: held in device memory, or streamed by tf.data. Importing this imports no TensorFlow.

config.py         the fields of `config.dataset`
create.py         config -> Pipeline
pipeline.py       what the training loop needs; how a global batch is laid on devices and hosts
in_memory.py      arrays on the devices, augmented in the compiled step (augment.py)
arrays.py         the embedded digits, .npz files, fake arrays
folder_scan.py    class folders: which images there are, and which are left out
folder.py         class folders: splits, reading into memory (pillow_images.py)
image_sizes.py    sizes of images, from headers alone
preprocessing.py  what evaluation does to an image, for networks in use
streaming.py      what all streams share; fake streams
folder_stream.py  class folders by tf.data      } tf_stream.py, tf_images.py, randaugment.py,
tfds_stream.py    TFDS records by tf.data       } autoaugment.py and tf_import.py serve both
tfds_source.py    TFDS: checks before reading, small sets into memory
instances/        images with the masks of their objects, for detectors
device_batches.py background transfer to the devices
"""

from evonorm_jax.data.config import dataset_config
from evonorm_jax.data.create import create_pipeline
from evonorm_jax.data.device_batches import prefetch_to_devices
from evonorm_jax.data.pipeline import Hosts, Pipeline, steps_per_epoch

__all__ = [
    "Hosts",
    "Pipeline",
    "create_pipeline",
    "dataset_config",
    "prefetch_to_devices",
    "steps_per_epoch",
]
