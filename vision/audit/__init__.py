"""Is this data fit to train on: balance, broken files, duplicates, outliers, wrong labels,
annotators' agreement."""
