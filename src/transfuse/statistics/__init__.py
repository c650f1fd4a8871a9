"""Statistics on arrays: the verdict on two arms and all that it rests on; neither tables, files nor networks."""
