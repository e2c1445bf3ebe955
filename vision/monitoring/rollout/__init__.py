"""Gives a new version of a model more traffic step by step, and takes it back if it is worse.

`plan`, `rules` and `readings` are pure: from numbers to a decision. `state` is what survives a
kill, `server`, `traffic` and `answers` read the world, and `controller` joins them.
"""
