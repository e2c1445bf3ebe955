"""The report of an evaluation: the page, its pictures and its sentences."""
