"""The node that keeps, for every time slice, the set of users seen and the counters."""
