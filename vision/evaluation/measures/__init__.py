"""The numbers that an evaluation computes from outputs and labels."""
