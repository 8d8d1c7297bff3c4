"""Studies of the whole method: the pipeline, the speed ladder, the search, benchmarks.

They run the project's commands as processes, and are the library behind scripts/.
"""
