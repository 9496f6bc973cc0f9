"""What people see while a command runs: the only user of rich. Progress goes to stderr, results to stdout."""
