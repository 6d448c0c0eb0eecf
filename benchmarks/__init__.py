"""One script per claim, each against its peers; results as JSON and a picture in `benchmarks/results/`."""
