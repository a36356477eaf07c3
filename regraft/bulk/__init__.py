"""Bulk work: the features of every image of a source, and networks on the workers of a Ray cluster."""
