"""The schema of the images: their source, their augmentation, and how often each class is seen."""

from vision.config.keys import (
    ANY,
    CHANNELS,
    DECAY,
    DEPTH,
    PAIR_OF_SHARES,
    POSITIVE_PAIR,
    SEED,
    SHARE,
    SIDE,
    THREE_SHARES,
    above,
    at_least,
    between,
    each,
    key,
    number,
    or_empty,
    section,
    within,
)

# A table: default, range and meaning of each key.
# fmt: off

DATA = section(
    'The images. Keys marked *: 0 or "auto" means the value that model.pretrained\'s weights were '
    "trained with, if it names any.",

    source=key("mnist5k",
        "the images, as KIND:ARGUMENT?OPTION=VALUE&..., such as folder:photos; docs/data.md lists "
        "the kinds"),
    unlabeled=key("",
        'more images, without labels, for objectives that use them: a source, "rest" = the '
        'training split itself without its labels, "" = none'),
    unlabeled_ratio=number(1, between(1, 1024),
        "unlabeled images in a step for each labeled one"),
    synthetic=key("",
        "more training images, which a model has made: a source that vision.synthesize has "
        'written; no other split has any of them; "" = none'),
    image_size=number(0, SIDE,
        "*side of the square image that the model sees, in pixels; 0 = the images' own, if all "
        "are equal"),
    channels=number(0, CHANNELS,
        "*1 (gray) or 3 (RGB); 0 = the images' own"),
    bits=number(0, DEPTH,
        "significant bits of 16-bit images, such as 12 for X-rays: the upper 8 of them become the "
        "pixels; 0 = 16. A larger value makes an image unreadable"),
    fractions=number((0.7, 0.2, 0.1), THREE_SHARES,
        "train, val, test: shares of each class, for a source without splits of its own"),
    split_by=key("name",
        "how it is divided: name = by the hash of each file's name and the seed, so that one more "
        "file moves no other; position = shuffled, with exact shares. Images without names, as in "
        "arrays, are divided by position, groups (?group=) by name"),
    split_seed=number(-1, between(-1, 2**63 - 1),
        "seed of the division into splits and of limit; -1 = seed. A fixed one lets runs with "
        "several seeds be tested on the same images"),
    allow_changes=key(False,
        "whether a run may be resumed on data that have changed: images that it had stay in their "
        "split, new ones join the split of their name"),
    val_fraction=number(0.1, DECAY,
        "share of the training split to validate on, if only a validation split is missing; "
        "0 = none: the test split is used"),
    resident_gib=number(2.0, at_least(0),
        "data up to this size (uint8, all splits) live on the device; 0 = always load"),
    workers=number(2, between(0, 1024),
        "processes that decode images, if data are encoded and loaded; 0 = this process. Batches "
        "pass through /dev/shm, of which a container needs more than the usual 64 MB"),
    crop_fraction=number(0.0, SHARE,
        "*the center crop's share of the resized image's side; 0 = 1; 0.875 is usual on ImageNet"),
    worker_timeout=number(300.0, at_least(0),
        "seconds to wait for a batch before the run saves and ends, because the disk or a process "
        "that decodes is stuck; 0 = forever"),
    interpolation=key("auto",
        "*for resizing: area (OpenCV, fast), bilinear or bicubic (PIL); auto = area"),
    random_crop_area=number((), or_empty(PAIR_OF_SHARES),
        "train on a random crop with this share of the area, made while loading, such as "
        "(0.08, 1.0); () = the center crop"),
    columns=key("",
        "columns of the source that a model learns from beside the image, such as "
        "age,ward:category; numbers or names, by their values or as said: docs/fusion.md"),
    labels=key("",
        "training images that keep their labels, drawn from each class at random: 25/class; 4000, "
        'of all; 1%, of all; "" = all. For learning from few labels; see unlabeled'),
    labels_seed=number(0, SEED, "seed of that draw"),
    limit=number(0, at_least(0),
        "largest number of images in each split, drawn at random; 0 = all. For trying things out"),
    max_unreadable=number(0.01, SHARE,
        "share of images that may be unreadable: up to it they are skipped and counted, above it "
        "is an error"),
    normalize=key("auto",
        "*unit: [0, 1]; symmetric: [-1, 1]; mean_std: (x / 255 - mean) / std; auto = symmetric"),
    mean=number((), ANY, "for mean_std: one number per channel"),
    std=number((), or_empty(each(above(0))), "for mean_std: one number per channel"),
)

TEXT = section(
    "The captions of the images, for objectives that learn from both: docs/text.md.",

    tokenizer=key("",
        "how captions become numbers: bpe, a vocabulary learned on those of the training split; a "
        'tokenizer.json by its path or as package:MODULE/PATH; "" = captions are not used'),
    vocabulary=number(4096, between(260, 2**20),
        "bpe: largest number of tokens; few captions give fewer"),
    context=number(32, between(4, 4096),
        "length of a caption in tokens, start and end included; longer ones lose their end"),
    templates=key("",
        "captions for a source that has none, made from each image's class name in the place of "
        '{}: "a photo of a {}.", several joined by | of which each image draws one; also those of '
        'the prompts of zero-shot classification. "" = none'),
)

AUGMENT = section(
    "Augmentation, on the device, inside the training step. Everything is off until a config "
    "turns it on.",

    pad_crop=number(0, SIDE,
        "pixels to pad on each side before a random crop; He et al. use 4"),
    pad_mode=key("zeros",
        "padding: zeros, or reflect, the image mirrored at its edge"),
    random_resized_crop=key(False, "crop a random part of the image and resize it back"),
    crop_area=number((0.8, 1.0), PAIR_OF_SHARES, "the crop's share of the area"),
    crop_ratio=number((3 / 4, 4 / 3), POSITIVE_PAIR, "the crop's width over its height"),
    flip_horizontal=key(False, "with probability 1/2"),
    flip_alternating=key(False,
        "flip every image horizontally in every second epoch. Jordan 2024 (arXiv:2404.00498)"),
    flip_vertical=key(False, "with probability 1/2"),
    rot90=key(False, "rotate by 0, 90, 180 or 270 degrees"),
    affine=key(False, "rotate, shear, translate and scale, in one resampling"),
    rotate=number(15.0, within("[0, 180]", "degrees"), "affine: largest angle, either way"),
    shear=number(0.0, within("[0, 45)", "degrees"), "affine: largest angle, along both axes"),
    translate=number(0.0, SHARE, "affine: largest share of the side, along both axes"),
    scale=number((1.0, 1.0), POSITIVE_PAIR, "affine: zoom, drawn log-uniformly"),
    brightness=number(0.0, SHARE, "factor drawn from [1 - x, 1 + x]"),
    contrast=number(0.0, SHARE, "factor drawn from [1 - x, 1 + x]"),
    saturation=number(0.0, SHARE, "factor drawn from [1 - x, 1 + x]"),
    hue=number(0.0, within("[0, 0.5]", "turns"),
        "shift drawn from [-x, x]; 0.5 = the opposite color"),
    jitter=number(1.0, SHARE,
        "probability that brightness, contrast, saturation and hue of an image change; SimCLR "
        "uses 0.8"),
    grayscale=number(0.0, SHARE, "probability of losing all colors; SimCLR uses 0.2"),
    blur=number(0.0, SHARE, "probability of a Gaussian blur; SimCLR uses 0.5 on ImageNet"),
    blur_sigma=number((0.1, 2.0), POSITIVE_PAIR,
        "its standard deviation in pixels; the kernel covers a tenth of the side"),
    solarize=number(0.0, SHARE,
        "probability of inverting the pixels of 128 and more; BYOL uses 0.2 for the second view"),
    randaugment_layers=number(0, between(0, 100),
        "operations per image; 0 = off. Cubuk et al. 2019 (arXiv:1909.13719)"),
    randaugment_magnitude=number(10.0, within("[0, 30]"), "10 is usual for small models"),
    random_erasing=number(0.0, SHARE, "probability. Zhong et al. 2017 (arXiv:1708.04896)"),
    erasing_area=number((0.02, 1 / 3), PAIR_OF_SHARES, "erased share of the area"),
    mixup=number(0.0, at_least(0),
        "alpha of the Beta distribution; 0 = off. Zhang et al. 2017 (arXiv:1710.09412)"),
    cutmix=number(0.0, at_least(0),
        "alpha of the Beta distribution; 0 = off; with mixup, each batch draws one of the two. "
        "Yun et al. 2019 (arXiv:1905.04899)"),
)

STRONG = section(
    "The keys of augment once more, for the strongly augmented view of objectives that have one, "
    "such as FixMatch.",
    **AUGMENT.keys,
)

IMBALANCE = section(
    "How often each class is seen. The losses for imbalanced classes are in objective.",

    sampling=key("none",
        "images of each class in an epoch: none, its own; over or under, as many as the largest "
        "or the smallest class; balanced, equally many; sqrt, in proportion to the square root of "
        "its own; smote, as over, with synthetic embeddings between neighbors (Chawla et al. "
        "2002, arXiv:1106.1813), which needs transfer.cache_embeddings or retrain_head"),
    sampling_from=number(0.0, SHARE,
        "share of the steps after which sampling begins: 0.8 is deferred re-sampling"),
    sampling_until=number(1.0, SHARE,
        "share of the steps at which sampling ends: 0.5 is balanced first, then the true "
        "distribution"),
    retrain_head=number(0.0, at_least(0),
        "epochs of a second training, of only a new head, on balanced batches or as sampling "
        "says: cRT, Kang et al. 2019 (arXiv:1910.09217); 0 = none"),
)

CONTINUAL = section(
    "Going on from a finished run with new images, new classes or both. The objective continual "
    "learns so.",

    previous=key("",
        "the run, by its directory: its classes come first, and its val and test keep their images "
        'and get the new ones; "" = none'),
    memory=key("",
        'images of its training to learn from again: 20/class; <=20/class; 200, of all; all; "" = '
        "none. A later run has what this one remembers and what it learns"),
    selection=key("herding",
        "which: herding, whose mean embedding is nearest to their class's, Rebuffi et al. 2016 "
        "(arXiv:1611.07725), algorithm 4; or random"),
    memory_seed=number(0, SEED, "seed of a random selection"),
    memory_ratio=number(1, between(1, 1024),
        "remembered images in a step for each new one"),
    tasks=key("",
        'sources to learn one after the other, "folder:first | folder:second", or options of '
        'data.source, "?classes=a,b | ?classes=c,d", or a number of tasks that its classes are '
        'divided into; see python -m vision.continual; "" = only data.source'),
    same_classes=key(False,
        "with a number of tasks, whether their classes are called alike, so that only the images "
        "change"),
    fisher_labels=key("sampled",
        "in a sequence of tasks, for objective.options.ewc: sampled, expected or true, see python "
        "-m vision.continual.importance"),
    fisher_images=number(0, at_least(0), "training images to measure; 0 = all"),
    fisher_anchors=key("each", "each, a penalty for each task, or latest"),
    fisher_decay=number(1.0, SHARE, "share of the earlier tasks' importance that stays"),
    old_data=key(True,
        "whether the images of the previous run are there: without them nothing can be "
        "remembered, and what is forgotten is not measured"),
)
