"""The command line: the only room that reads files, prints tables and draws pictures."""
