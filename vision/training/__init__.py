"""The trainer: loop, step and state, optimizer and schedules, checkpoints, logging. It knows no
model and no report."""
