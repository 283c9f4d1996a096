"""Labels that look wrong, by what networks predict that were not trained on their photos."""
