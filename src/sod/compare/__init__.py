"""Several methods and seeds trained and measured on equal terms: the cells, their jobs and their table."""
