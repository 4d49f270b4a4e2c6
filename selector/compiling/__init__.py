"""A run's portfolio compiled: graphs for what its policies ask, policies for the precision, and what that costs."""
