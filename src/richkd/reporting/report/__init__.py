"""What a student is worth: everything that explains it, in three sentences and on one page."""
