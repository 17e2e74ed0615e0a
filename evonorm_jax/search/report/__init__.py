"""What searches have found: figures, tables and reports from their ledgers."""
