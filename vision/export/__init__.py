"""Takes a trained model out of this project: one file a format."""
