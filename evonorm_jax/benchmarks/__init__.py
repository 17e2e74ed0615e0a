"""Measurements: rivals side by side in one interleaved run, written with all that explains them.

suite.py          names, options, from a name to written files
timing.py         A B A B: interleaving, samples, spreads, same-round ratios
report.py         results as JSON, Markdown and bars
machine.py        what was measured on: hardware, versions, commit, allocator
layer_program.py  one layer's forward and backward pass as one compiled program
rivals.py         what the layers are measured against: plain forms, Flax
torch_rivals.py   the same in PyTorch and timm, where they are installed
layers.py train_step.py input.py startup.py gpu.py    one suite each

`python -m experiments.benchmark` runs them. Importing this imports nothing.
"""
