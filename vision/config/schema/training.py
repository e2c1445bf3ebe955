"""The schema of the training: optimizer, schedule, length, checkpoints, logs and devices."""

from vision.config.keys import (
    BATCH,
    COUNT,
    DECAY,
    RISING_SHARES,
    SHARE,
    above,
    at_least,
    between,
    key,
    number,
    options,
    section,
)

# A table: default, range and meaning of each key.
# fmt: off

OPTIMIZER = section(
    "The optimizer.",

    name=key("adamw", "sgd, adam, adamw, lamb, lars, lion or muon"),
    learning_rate=number(1e-3, at_least(0), "the schedule's peak"),
    weight_decay=number(0.0, at_least(0),
        "added to the gradient (L2) for sgd and adam, decoupled for the others"),
    decay_all=key(False,
        "also decay biases, norms and positions, as papers before 2018 did"),
    momentum=number(0.9, DECAY, "sgd, lars, muon"),
    nesterov=key(False, "sgd, lars"),
    b1=number(0.9, DECAY, "adam, adamw, lamb, lion; muon's parameters that are not matrices"),
    b2=number(0.999, DECAY, "adam, adamw, lamb, lion; muon's parameters that are not matrices"),
    eps=number(1e-8, above(0), "adam, adamw, lamb, muon"),
    norm_bias_scale=number(1.0, above(0),
        "sgd: multiplies the rate, not the decay, of BatchNorm's biases; arXiv:2404.00498 uses 64"),
    lookahead=number(0, at_least(0),
        "steps between pulls back to a slow average of the weights and of BatchNorm's statistics; "
        "0 = off. Zhang et al. 2019 (arXiv:1907.08610), with the average's decay rising as "
        "0.95^lookahead * time^3 (arXiv:2404.00498, section 3.4)"),
    freeze=key("",
        "a regular expression, searched in parameter names (see the parameter overview); matching "
        "parameters learn only until freeze_at"),
    freeze_at=number(0.3, SHARE, "freeze: share of the steps after which they stay fixed"),
    clip_norm=number(0.0, at_least(0), "largest global norm of the gradient; 0 = no clipping"),
    ema=number(0.0, DECAY,
        "decay of the weights' moving average, which is then evaluated (with the latest BatchNorm "
        "statistics); 0 = none"),
)

SCHEDULE = section(
    "The learning rate over time. Times are shares of all steps, so they stay right when the "
    "number of steps changes.",

    name=key("warmup_cosine",
        "warmup_cosine, cosine, cosine7_16 (FixMatch's), step, linear, constant, rsqrt or plateau"),
    warmup=number(0.05, SHARE,
        "share of the steps over which the rate rises, for every schedule but cosine"),
    start=number(0.0, SHARE, "the warmup's first rate as a share of the peak"),
    final=number(0.0, SHARE, "cosine, linear: the last rate as a share of the peak"),
    boundaries=number((0.5, 0.75), RISING_SHARES,
        "step: times at which the rate is multiplied by factor"),
    factor=number(0.1, above(0), "step, plateau: what the rate is multiplied by"),
    timescale=number(0.1, at_least(0),
        "rsqrt: rate = peak * sqrt(timescale / max(time, timescale))"),
    patience=number(5, at_least(1),
        "plateau: evaluations without a lower validation loss before the rate falls"),
)

TRAIN = section(
    "Length, batches and evaluation.",

    steps=number(0, at_least(0), "optimizer steps; 0 = set by epochs"),
    epochs=number(10.0, at_least(0), "passes over the training split, if steps is 0"),
    batch_size=number(128, BATCH, "images per step, over all devices and all hosts"),
    eval_batch_size=number(0, between(0, 2**20),
        "images per step of an evaluation; 0 = batch_size"),
    accumulate=number(1, BATCH,
        "parts of the batch to process one after another, to save memory; the gradient is their "
        "mean, but each part has its own BatchNorm statistics and its own mean of a weighted "
        "loss"),
    steps_per_dispatch=number(0, between(0, 10_000),
        "steps that the device runs in one call, if the data stay there; 0 = as many as take at "
        "most about a second, up to 32; 1 on CPUs"),
    test_time_augmentation=key("none",
        "average over views: none, flip, flip_shift (also by one pixel), five_crop or ten_crop"),
    eval_every=number(0, at_least(0),
        "steps between evaluations on the validation split; 0 = once per epoch"),
)

EARLY_STOPPING = section(
    "Stopping before the last step.",

    enabled=key(False, "stop when checkpoint.metric has stopped improving"),
    patience=number(5, at_least(1), "evaluations without improvement"),
    min_delta=number(0.0, at_least(0), "an improvement is a change of more than this"),
)

CHECKPOINT = section(
    "When the state is saved, and which checkpoints stay.",

    every=number(0, at_least(0),
        "steps between checkpoints in addition to the one at each evaluation; 0 = none"),
    keep_latest=number(2, at_least(1),
        "newest checkpoints to keep; the second newest is the spare if the newest is damaged"),
    keep_best=number(1, at_least(1), "checkpoints with the best metric to keep"),
    metric=key("val/accuracy",
        "what best means: any name in metrics.jsonl that starts with val/; val/step = the last"),
    mode=key("auto",
        "which values of metric are better: max, min or auto (depends on the metric)"),
)

LOG = section(
    "What a run reports.",

    every=number(50, at_least(1), "steps between lines of metrics.jsonl"),
    tensorboard=key(True, "scalars, augmented images, parameter overview"),
    images=number(16, between(0, 4096), "augmented training images in TensorBoard's grid"),
    curves=key(True,
        "curves.png at the end: loss, quality and learning rate, with the best step marked"),
    tracker=key("",
        "where else to report the run: mlflow or wandb (Weights & Biases); docs/runs.md"),
    tracker_options=options(
        "mlflow: uri, experiment, name; wandb: project, entity, mode (online or offline), name"),
    progress=key(True, "a bar on a terminal, plain lines elsewhere; False = neither"),
)

PARALLEL = section(
    "Devices and hosts.",

    devices=number(0, COUNT, "devices to use; 0 = all, which several hosts must use"),
    keep_memory=key(True,
        "on CPUs, freed memory stays with the process: vision/support/memory.py"),
    fsdp=number(1, COUNT,
        "devices that share one copy of the state (parameters, optimizer); 1 = each has its own, "
        "0 = all share one"),
    distributed=key("auto",
        "several processes: auto (if Slurm, Kubernetes or Open MPI started them), on or off"),
    coordinator=key("",
        "HOST:PORT of process 0, if no scheduler provides it; needs processes and process"),
    processes=number(0, COUNT, "number of processes; 0 = as the scheduler says"),
    process=number(-1, between(-1, 10**6),
        "number of this process, from 0; -1 = as the scheduler says"),
    onednn=key("auto",
        "on one CPU, convolutions and matrix products with oneDNN: auto (if installed) or off"),
    xla_options=key("",
        'XLA options of the training step, "xla_gpu_NAME=VALUE ..."; scripts/bench/train.py '
        "compares them"),
)
