"""Checks a dataset before training.

Class balance, broken files, duplicates, outliers, wrong labels, and agreement of annotators.
"""
