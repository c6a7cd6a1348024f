-- safe: an index, and nothing else
-- Why: a run stays as long as a retry of it does, which must not take a look at all runs.
-- Cost: reads the runs once.

create index runs_retried on runs (retry_of) where retry_of is not null;
