"""Measurements of rivals side by side in one interleaved run, with all that explains them.

suite.py          names, options, from a name to written files
timing.py         A B A B: interleaving, samples, spreads, same-round ratios
report.py         results as JSON, Markdown and bars
machine.py        what was measured on: hardware, versions, commit, allocator
layer_program.py  one layer's forward and backward pass as one compiled program
rivals.py         what the layers are measured against: plain forms, Flax
torch_rivals.py   the same in PyTorch and timm, where they are installed
layers.py train_step.py input.py startup.py gpu.py aot.py    one suite each
aot_programs.py   what the aot suite compiles: layers, blocks, training steps
compile_only.py   TPUs and GPUs that are not there, for compilers
hlo.py hlo_traffic.py hlo_flops.py    optimised HLO as data: bytes, FLOPs and origin of kernels
roofline.py       what chips can do by their vendors, and the least time that it gives
mosaic_resources.py    registers and spills of Pallas kernels on GPUs

`python -m experiments.benchmark` runs them. Importing this imports nothing.
"""
