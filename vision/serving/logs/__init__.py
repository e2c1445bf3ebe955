"""What a server writes: metrics, access log and predictions."""
