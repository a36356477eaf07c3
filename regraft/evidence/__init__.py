"""Where in an image the evidence for an answer lies: heat maps, and pictures of them."""
