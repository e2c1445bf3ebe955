"""Is a new version of a model better than the old one? Plans A/B tests and analyzes them.

The statistics (`moments`, `comparisons`, `sequential`, `cuped`, `planning` and `verdict`) are pure
functions of numbers and arrays, without flags, files or logs.
"""
