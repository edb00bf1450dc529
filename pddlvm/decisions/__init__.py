"""From predictions to decisions: distributions of quantities, rare events, places of sensors."""
