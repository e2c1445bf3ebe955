"""What an evaluation computes from outputs and labels."""
