"""A store over tables, whichever database holds them: the statements by name are twins, one text for each database."""
