"""Runs that go on from each other: sequences of tasks, and how much each weight matters."""
