"""The Kubernetes API: how it is found, who asks, and what it says of Knative's objects."""
