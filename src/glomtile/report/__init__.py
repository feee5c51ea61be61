"""The report page of a folder of results."""
