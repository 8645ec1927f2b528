"""Comparison of the network, the runtime and a training step with the published implementation's arrays."""
