# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# # Instance segmentation
#
# Mask R-CNN with EvoNorm in backbone, pyramid and heads ([Liu, Brock, Simonyan and Le, NeurIPS
# 2020](https://arxiv.org/abs/2004.02967), Table 4) finds every object, with its box and its mask.
# Here a small one learns to find nuclei under the microscope, from a folder of images in COCO's
# layout, in minutes on a CPU.
#
# In Colab: choose the repository and the notebook in the dialog that the badge opens, and give the
# repository's address in the next cell.

# %%
# In Colab: fills the machine with a clone and the packages. Elsewhere they are there already.
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # @param {type: "string"}

if "google.colab" in sys.modules:
    if not REPOSITORY:
        raise ValueError("Fill in REPOSITORY: the address that this notebook was opened from.")
    ROOT = Path("/content/evonorm_jax")
    has_tpu = Path("/dev/vfio").exists() or Path("/dev/accel0").exists()
    extra = "[cuda12]" if shutil.which("nvidia-smi") else "[tpu]" if has_tpu else ""
    if not ROOT.exists():
        subprocess.run(["git", "clone", "--quiet", "--depth=1", REPOSITORY, ROOT], check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"{ROOT}[train]", f"jax{extra}"], check=True)
else:
    ROOT = next(at for at in (Path.cwd(), *Path.cwd().parents) if (at / "configs").is_dir())
sys.path.insert(0, str(ROOT))  # `configs` and `experiments` are folders of the clone

# %% [markdown]
# COCO's masks and its average precision need one package more. Outside of Colab it comes
# with `pip install -e ".[train,detection]"`.

# %%
if "google.colab" in sys.modules:
    subprocess.run([*pip, f"{ROOT}[detection]"], check=True)

# %% [markdown]
# ## A folder in COCO's layout
#
# `annotations/instances_train.json` and `instances_val.json` beside the folders `train` and `val`:
# so your own images can lie, too. Here they are quarters, 128 pixels wide, of the 48 and 16 images
# of nuclei that come with the package, those that show at least three nuclei.
#
# Fluorescence images are dark, and some are four times as bright as others. So every image is
# *stretched* first: its median becomes black, and its brightest 0.5 % white. The network and the
# figures below see the same stretched images.

# %%
import itertools
import json
import tempfile

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from evonorm_jax.data.instances.masks import coco_truth
from evonorm_jax.data.instances.nuclei import CLASS_NAMES, read_nuclei

SIDE = 128
root = Path(tempfile.mkdtemp(prefix="evonorm_jax_nuclei_"))


def quarters(split):
    """Pixels of the quarters of each image, and class and mask of each nucleus in them."""
    for pixels, labels in read_nuclei(split):
        black, white = np.percentile(pixels, (50, 99.5))
        stretched = np.clip((pixels - black) / (white - black), 0, 1)
        for top, left in itertools.product((0, SIDE), repeat=2):
            place = np.s_[top : top + SIDE, left : left + SIDE]
            masks = [labels[place] == number for number in np.unique(labels[place]) if number]
            nuclei = [(1, mask) for mask in masks if mask.sum() >= 20]  # no slivers at the edges
            if len(nuclei) >= 3:
                yield (255 * stretched[place]).astype(np.uint8), nuclei


(root / "annotations").mkdir()
for split in ("train", "val"):
    (root / split).mkdir()
    pictures, objects = zip(*quarters(split), strict=True)
    truth = coco_truth(objects, CLASS_NAMES)
    for record, picture in zip(truth["images"], pictures, strict=True):
        record["file_name"] = f"{record['id']:03}.png"
        Image.fromarray(picture).save(root / split / record["file_name"])
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(truth))
    print(f"{split:6}{len(pictures):4} images, {len(truth['annotations']):5,} nuclei")

# %% [markdown]
# ## The detector
#
# `create_detector` makes the paper's networks by name. `norm_act` takes any layer of the project;
# where no activation follows, an EvoNorm stands as its affine map alone, without `v`. That is how
# the paper counts 46.37 and 46.38 million parameters.

# %%
from evonorm_jax.detection import create_detector

for layer in ("bn_relu", "evonorm_s0"):
    paper = create_detector("maskrcnn_r50_fpn", num_classes=91, norm_act=layer)
    print(f"maskrcnn_r50_fpn with {layer:11}{paper.num_parameters(image_size=1024):,} parameters")

# %% [markdown]
# The one for nuclei is the recipe of `configs/nuclei256_maskrcnn_r18_fpn_evonorm_s0.py` made
# small: three stages of one block instead of ResNet-18's four of two, and heads of half the width
# and half the depth. The launcher takes the same fields as `--config.dataset.path=...`.

# %%
from configs import detection_recipes
from evonorm_jax.data.instances import instance_dataset_config

LAYER = "evonorm_s0"  # "bn_relu", "evonorm_b0", "gn_relu"

config = detection_recipes.nuclei(LAYER)
config.model.fields.backbone_fields.stage_sizes = (1, 1, 1)
config.model.fields.update(
    {
        **dict.fromkeys(("fpn_filters", "rpn_filters", "head_filters"), 32),
        "max_level": 4,  # the coarsest map, of 8 x 8 pixels
        "head_num_convs": 2,
        "head_units": 128,
        **dict.fromkeys(("train_candidates", "candidates"), 200),
        **dict.fromkeys(("train_proposals", "proposals"), 100),
        "box_samples": 64,
        "mask_samples": 16,
        "max_detections": 50,
    }
)
config.dataset = instance_dataset_config(
    "nuclei_quarters",
    "coco_json",
    path=str(root),
    image_size=SIDE,
    max_instances=40,
    mean=(16.0,) * 3,  # about those of the stretched images
    std=(44.0,) * 3,
    scale_jitter=(0.8, 1.25),
)
config.eval_batch_size = 8
config.num_epochs = 12.0
config.schedule.warmup_epochs = 0.5
config.optimizer.learning_rate_per_256 = 2.56  # 0.04 at a batch of 4
config.eval_every_epochs = 3.0

# %% [markdown]
# ## Training
#
# AP is COCO's: the precision over all recalls, as a mean over how well a mask must overlap with
# the true one (IoU 0.5, 0.55, ..., 0.95). *AP50* asks for 0.5 alone. Both are measured on the
# images of `val`, before the first step and after the last.

# %%
import time

from evonorm_jax.training import load_run, train_and_evaluate
from evonorm_jax.training.evaluation import evaluate
from evonorm_jax.training.experiment import create_experiment

experiment = create_experiment(config)
before = evaluate(experiment.task, experiment.parallel, experiment.create_state())

workdir = root / "run"
start = time.perf_counter()
after = train_and_evaluate(config, workdir)
print(f"{after['steps']} steps in {(time.perf_counter() - start) / 60:.1f} min, all included")
print(f"{'':8}{'before':>8}{'after':>8}")
for name in ("box_ap50", "mask_ap50", "box_ap", "mask_ap"):
    print(f"{name:10}{before[f'eval/{name}']:8.1%}{after[f'eval/{name}']:8.1%}")

# %% [markdown]
# The config trains longer, on whole images and with the whole network. The curves of this run:

# %%
from evonorm_jax.analysis import draw_precision_recall, draw_runs, load_runs, read_precision_recall

draw_runs(load_runs([workdir]), ["loss", "mask_ap"])

# %% [markdown]
# ## Truth and prediction
#
# Three images of `val`, which the network was not trained on, spread evenly over those that show
# ten to twelve nuclei. Above are the true nuclei, below those that were found with a score of at
# least 0.5: each with its box, and its mask in one of seven colours. The colours have no meaning.

# %%
from evonorm_jax.detection.drawing import Drawn, draw_objects
from evonorm_jax.training.detection_pictures import true_objects

detector = load_run(workdir)
pipeline = experiment.pipeline
pictures = [pipeline.eval_picture(index) for index in range(pipeline.num_eval_examples)]
truths = [true_objects(pipeline, picture, index) for index, picture in enumerate(pictures)]
several = [index for index, drawn in enumerate(truths) if 10 <= len(drawn) <= 12]
chosen = several[:: len(several) // 3][:3]

nuclei, axes = plt.subplots(2, 3, figsize=(7.5, 5.4), layout="constrained")
predictions = detector.predict([pictures[index] for index in chosen])
for column, index, prediction in zip(axes.T, chosen, predictions, strict=True):
    found = [Drawn(*one) for one in zip(prediction.boxes, prediction.masks, strict=True)]
    for axis, drawn, title in zip(column, (truths[index], found), ("true", "found"), strict=True):
        axis.imshow(draw_objects(pictures[index], drawn))
        axis.set_title(f"{len(drawn)} {title}", fontsize=10)
        axis.axis("off")
nuclei

# %% [markdown]
# ## Precision over recall
#
# How many of the nuclei are found, the surest detections first, and how many of the detections
# are nuclei. The run directory has the table (`precision_recall.csv`) and this figure.

# %%
draw_precision_recall([read_precision_recall(workdir / "precision_recall.csv")])

# %%
assert before["eval/mask_ap50"] < 0.05
assert after["eval/mask_ap50"] > 0.5

# %% [markdown]
# ## The same through the launchers
#
# With a folder of your own, on any number of devices and hosts; then boxes and masks drawn into
# pictures, and several runs in one figure ([instance segmentation](../docs/detection.md)). Mean
# and standard deviation are those of photographs here, as the config has those of the nuclei:
#
# ```bash
# python -m experiments.train --config configs/nuclei256_maskrcnn_r18_fpn_evonorm_s0.py \
#     --workdir runs/mine --config.dataset.source=coco_json --config.dataset.name=mine \
#     --config.dataset.path=PATH --config.dataset.image_size=512 \
#     --config.dataset.mean='(123.675, 116.28, 103.53)' \
#     --config.dataset.std='(58.395, 57.12, 57.375)'
# python -m experiments.predict --workdir runs/mine photos/ --draw=drawn --json=found.json
# python -m experiments.plot runs/mine runs/other
# ```
