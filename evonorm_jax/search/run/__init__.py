"""A search at work: driver, workers, ledger, and what is done with the best candidates."""
