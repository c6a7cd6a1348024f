-- breaking: a program that does not know limits would claim what they hold back
-- Why: concurrency limits by flow and by label. A flow that has one gets requirement sets of its own, so that a claim
-- passes by all that waits for its slots with one seek.
-- Cost: rewrites the table of requirement sets, which is small, and reads the runs once for an index of those that are
-- claimed or running.

create table limits (
    kind text not null, -- flow or label
    name text not null,
    slots integer not null,
    when_full text not null,
    primary key (kind, name)
) without rowid;

create table new_sets (
    id integer primary key,
    labels text not null,
    launcher text not null, -- '' for any
    flow text not null default '', -- '' unless that flow has a limit
    unique (labels, launcher, flow)
);
insert into new_sets (id, labels, launcher) select id, labels, launcher from requirement_sets;
drop table requirement_sets;
alter table new_sets rename to requirement_sets;

create index runs_taken on runs (requirement_set) where state in ('claimed', 'running');
