"""The program inside the attempt's process or container: standard library and cloudpickle only."""
