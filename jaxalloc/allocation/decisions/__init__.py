"""What follows from the optimum: frontiers, targets, sensitivities, whole tokens."""
