"""Checks a dataset before training: balance, broken files, duplicates, outliers, wrong labels, and
agreement of annotators."""
