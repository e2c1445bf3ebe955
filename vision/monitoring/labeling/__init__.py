"""From images that a server has kept to labels: what is worth labeling, tasks, answers."""
