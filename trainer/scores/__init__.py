"""What predictions are worth, and the page that says so."""
