"""One file per revision; 0001 makes the tables of the first release."""
