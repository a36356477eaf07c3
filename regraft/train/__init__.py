"""How the trained part is fitted."""
