"""Collection: the sampler that joins the readers, and the loop that keeps time."""
