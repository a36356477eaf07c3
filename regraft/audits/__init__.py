"""What is wrong with images and their labels, found from what the one pass left behind. NumPy, SciPy and scikit-learn only."""
