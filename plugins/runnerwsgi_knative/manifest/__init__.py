"""`runnerwsgi knative manifest`: everything that a namespace needs to run extensions."""
