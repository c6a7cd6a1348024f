-- breaking: a program that does not know limits would claim what they hold back
-- Why: concurrency limits by flow and by label. A flow that has one gets requirement sets of its own, so that a claim
-- passes by all that waits for its slots with one seek.
-- Cost: reads the runs once for an index of those that are claimed or running, and keeps writers waiting meanwhile.

create table limits (
    kind text collate "C" not null, -- flow or label
    name text collate "C" not null,
    slots bigint not null,
    when_full text not null,
    primary key (kind, name)
);

alter table requirement_sets add column flow text collate "C" not null default ''; -- '' unless that flow has a limit
alter table requirement_sets drop constraint requirement_sets_labels_launcher_key;
alter table requirement_sets add unique (labels, launcher, flow);

create index runs_taken on runs (requirement_set) where state in ('claimed', 'running');
