"""Pretrained networks: where they come from, where their head is, where they can be cut."""
