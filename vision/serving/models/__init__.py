"""The models that a server holds: versions, traffic and batches."""
