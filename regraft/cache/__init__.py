"""What the frozen part of a network gave for an image, computed once and kept."""
