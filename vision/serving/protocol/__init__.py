"""The Open Inference Protocol: requests and answers as JSON and protobuf."""
