"""Parity of the network, the runtime and a training step with arrays of the published implementation."""
