"""For people: the terminal, tables and plots. Reads records, computes nothing."""
