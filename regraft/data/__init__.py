"""Data in: sources of samples, the split, and the one function that opens an image."""
