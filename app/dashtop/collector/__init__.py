"""Collection: the sampler that combines the readers, the thread that runs it, and the events between two samples."""
