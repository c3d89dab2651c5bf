"""Two silos train a classifier of handwritten digits, as a Flower app."""
