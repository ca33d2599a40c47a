"""`richkd report`: evaluation of a finished run, as three sentences, one page, text and JSON."""
