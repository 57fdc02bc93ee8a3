"""One file per group of measures. Each takes a kind of subject and puts what it saw into the results."""
