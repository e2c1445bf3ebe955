"""The schema of the reports: the audit of a dataset, and the evaluation of a trained model."""

from vision.config.keys import SHARE, at_least, between, key, number, section, within

# A table: default, range and meaning of each key.
# fmt: off

AUDIT = section(
    "What `python -m vision.audit` looks for, and what `--strict` allows. Shares are of all "
    "images; 1 allows all.",

    near=number(0.9, SHARE,
        "two superimposed images with at least this similarity are near duplicates"),
    blank=number(4.0, at_least(0),
        "standard deviation of the gray values (0 to 255) below which an image is blank"),
    tiny=number(16, at_least(0), "an image with a side of fewer pixels is tiny"),
    aspect=number(3.0, at_least(1),
        "an image whose longer side is more than this times the shorter one is odd"),
    blur=number(3.5, at_least(0),
        "an image this many robust deviations below its class's median sharpness is blurred"),
    outlier=number(5.0, at_least(0),
        "an embedding over this many robust deviations above the median distance is an outlier"),
    folds=number(5, between(2, 1000),
        "folds of the cross-validated predictions that find wrong labels"),
    power=number(0.75, SHARE,
        "labels and pairs of classes are questioned only if a classifier on the embeddings "
        "reaches this Cohen's kappa; lower it if many labels are known to be wrong"),
    confusable=number(0.1, SHARE,
        "a pair of classes is reported if this share of their images is mistaken for the other"),
    apply=key("unreadable,blank,duplicate,near_duplicate,wrong_label,spelling",
        "kinds of issues that --apply fixes"),
    max_imbalance=number(1000.0, at_least(1),
        "--strict: images of the largest class divided by those of the smallest"),
    max_unreadable=number(0.0, SHARE, "--strict: share of unreadable images"),
    max_duplicates=number(0.01, SHARE, "--strict: share of duplicates, exact and near"),
    max_leaks=number(0.0, SHARE, "--strict: share of duplicates in different splits"),
    max_wrong_labels=number(0.05, SHARE, "--strict: share of wrong labels"),
    min_agreement=number(0.6, within("[-1, 1]"),
        "--strict: Fleiss' kappa of several annotators"),
)

EVALUATION = section(
    "What `python -m vision.evaluation` measures and shows.",

    bootstrap=number(1000, between(0, 100_000), "draws of each 95 % interval; 0 = no intervals"),
    bins=number(15, between(2, 10_000),
        "bins of the reliability diagram and the calibration error"),
    positive=key("",
        'class whose false alarm and miss rates are reported, such as "defect"; "" = none'),
    recall=number(0.95, within("(0, 1]"),
        "target recall for that class: the report gives the threshold that reaches it on the "
        "validation split"),
    temperature=key(True, "fit a temperature on the validation split, and store it with the run"),
    unsure=key(True,
        "choose thresholds for unsure answers on the validation split, and store them with the "
        "run"),
    explain=key(True, "heat maps over misclassified images"),
    errors=number(24, between(0, 10_000), "worst errors shown"),
    examples=number(3, between(0, 1000),
        "hardest images shown of each class, and as many of the easiest"),
    pairs=number(8, between(0, 10_000), "most confused pairs of classes shown"),
    slices=key(True, "accuracy by brightness, size, folder and the columns of a table"),
    slice_images=number(20, at_least(1), "images that a slice needs to be reported"),
    corruptions=key(True,
        "accuracy under 15 corruptions at 5 severities. Hendrycks and Dietterich 2019"),
    views=key(True, "accuracy with each kind of test-time augmentation"),
    sample=number(1000, at_least(0),
        "images for corruptions and views, drawn at random: they take 75 and 24 passes; 0 = all"),
    map=key("tsne", "2-D map of the embeddings: none, pca, tsne or umap"),
    map_images=number(2000, at_least(0), "images on the map, drawn at random"),
    probe=number(10_000, at_least(0),
        "training images, drawn at random, for nearest neighbors and the linear probe; "
        "0 = neither"),
    license=key("", 'license of the model, for its card, such as "Apache-2.0"'),
)
