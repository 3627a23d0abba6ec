"""`runnerwsgi knative lint`: what Knative would refuse or ignore, before it is asked."""
