"""A fake of cuda-python's bindings."""
