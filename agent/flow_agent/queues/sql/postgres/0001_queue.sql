-- breaking: the first one; nothing older knows these tables
-- Why: registrations, runs and what agents say of them.
-- Cost: none on an empty schema.

-- Texts that are compared have the order of their bytes, as everywhere else in the program.
create table flows (
    name text collate "C" not null,
    version bigint not null,
    registration text not null,
    primary key (name, version)
);

-- The distinct wishes of runs: few, never deleted, so that agents can remember which of them they serve.
create table requirement_sets (
    id bigint generated always as identity primary key,
    labels text collate "C" not null,
    launcher text collate "C" not null, -- '' for any
    unique (labels, launcher)
);

create table runs (
    serial bigint generated always as identity primary key,
    id text collate "C" not null unique,
    flow text collate "C" not null,
    version bigint not null,
    requirement_set bigint not null,
    priority bigint not null,
    parameters text not null,
    created_at double precision not null,
    retry_of text,
    key text collate "C",
    state text collate "C" not null,
    reason text,
    detail text not null,
    attempt bigint not null,
    claim bigint not null,
    losses bigint not null,
    due_at double precision,
    claimed_at double precision,
    started_at double precision,
    finished_at double precision,
    agent text,
    agent_id text collate "C" not null,
    incarnation text not null,
    launcher text collate "C",
    ref text,
    scope text collate "C" not null,
    revision text,
    exit_code bigint,
    result text,
    cancel_requested integer not null,
    released_since double precision,
    lease_until double precision, -- seconds of the server's clock; null while nobody holds the run
    lease_boot text collate "C" not null
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- The one index of the claim: a seek for each set that an agent serves, whatever else waits.
create index runs_queued on runs (requirement_set, priority desc, id) where state = 'queued';
create index runs_scheduled on runs (due_at) where state = 'scheduled';
create index runs_leased on runs (lease_boot, lease_until) where lease_until is not null;
create index runs_orphaned on runs (launcher, scope) where state = 'running' and lease_until is null;
create index runs_of_flow on runs (flow, id);
create unique index runs_keys on runs (flow, key) where key is not null;

-- What an agent was answered and what it said last, so that a lost reply can be asked for again.
create table claims (
    run_id text collate "C" not null,
    number bigint not null,
    agent_id text collate "C" not null,
    request_id text collate "C" not null,
    ended text,
    primary key (run_id, number)
);

create index claims_of_request on claims (request_id, agent_id);

create table attempts (
    run_id text collate "C" not null,
    number bigint not null,
    claim bigint not null,
    agent text not null,
    started_at double precision not null,
    finished_at double precision,
    reason text,
    detail text not null,
    exit_code bigint,
    primary key (run_id, number)
);

create table logs (
    cursor bigint generated always as identity primary key,
    run bigint not null, -- runs.serial
    attempt bigint not null,
    source text collate "C" not null,
    seq bigint not null,
    time double precision not null,
    level text not null,
    logger text not null,
    text text not null
);

create unique index logs_once on logs (run, attempt, source, seq);
create index logs_of_run on logs (run, cursor);

create table agents (
    id text collate "C" primary key,
    seen_at double precision not null,
    agent text not null
);
