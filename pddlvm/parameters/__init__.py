"""What z is: priors, fields and their space, and problems that have them."""
