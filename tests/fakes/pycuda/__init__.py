"""A fake of PyCUDA."""
