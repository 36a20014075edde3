"""What every request must pass before a page or a call answers it. Nothing here knows what is answered."""
