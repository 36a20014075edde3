"""The page: what is shown and how it stays alive. Asks `Services`, never a reader or a database."""
