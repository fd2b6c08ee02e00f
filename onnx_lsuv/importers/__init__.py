"""What trains where: the measured table of importers as data, and the forecast for a file."""
