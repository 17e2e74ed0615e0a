"""Images with the masks of their objects, for `evonorm_jax.detection`.

config.py        the fields of `config.dataset` for these sets
create.py        config -> InstancePipeline
pipeline.py      what training and evaluation of a detector need; sets held in memory
coco_json.py     COCO's own layout: folders of images beside JSON files
coco_stream.py   the same, read while training goes on
nuclei.py        the embedded microscope images
digit_scenes.py  digits on noise, drawn on the device
examples.py      one image with its objects -> arrays of fixed shapes
augment.py       mirror images and scale jitter, inside the compiled step
"""

from evonorm_jax.data.instances.config import instance_dataset_config
from evonorm_jax.data.instances.create import create_instance_pipeline
from evonorm_jax.data.instances.pipeline import InstancePipeline

__all__ = ["InstancePipeline", "create_instance_pipeline", "instance_dataset_config"]
