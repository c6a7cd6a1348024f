"""The queues: each module keeps ``ports.Queue`` over one kind of database."""
