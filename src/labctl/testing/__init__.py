"""Stand-ins for the machine, shipped for labctl's own tests and for its users'."""
