"""A cluster of Kubernetes, asked by HTTP: where it is, who we are there, and one call of its API."""
