"""A page on the local machine that shows what a model says: sliders, fields, sensors."""
