"""Flow benchmarks: does batchd find, fill, obey and share out what a model server can take?"""
