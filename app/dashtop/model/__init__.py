"""What the words mean: metrics, samples, ports and errors. Imports nothing else of dashtop."""
