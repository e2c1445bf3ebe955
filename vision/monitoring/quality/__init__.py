"""Quality in production: accuracy, recall and calibration from late labels, and estimates without.

`vision.reference.quality` has the bundle's own quality and the estimators.
"""
