"""A model behind HTTP: an app with limits, and a page to try it."""
