-- breaking: the first one; nothing older knows these tables
-- Why: registrations, runs and what agents say of them, in one file.
-- Cost: none on an empty file.

create table flows (
    name text not null,
    version integer not null,
    registration text not null,
    primary key (name, version)
);

-- The distinct wishes of runs: few, never deleted, so that agents can remember which of them they serve.
create table requirement_sets (
    id integer primary key,
    labels text not null,
    launcher text not null, -- '' for any
    unique (labels, launcher)
);

create table runs (
    serial integer primary key,
    id text not null unique,
    flow text not null,
    version integer not null,
    requirement_set integer not null,
    priority integer not null,
    parameters text not null,
    created_at real not null,
    retry_of text,
    key text,
    state text not null,
    reason text,
    detail text not null,
    attempt integer not null,
    claim integer not null,
    losses integer not null,
    due_at real,
    claimed_at real,
    started_at real,
    finished_at real,
    agent text,
    agent_id text not null,
    incarnation text not null,
    launcher text,
    ref text,
    scope text not null,
    revision text,
    exit_code integer,
    result text,
    cancel_requested integer not null,
    released_since real,
    lease_until real, -- monotonic seconds of the boot in lease_boot; null while nobody holds the run
    lease_boot text not null
);

-- The one index of the claim: a seek for each set that an agent serves, whatever else waits.
create index runs_queued on runs (requirement_set, priority desc, id) where state = 'queued';
create index runs_scheduled on runs (due_at) where state = 'scheduled';
create index runs_leased on runs (lease_boot, lease_until) where lease_until is not null;
create index runs_orphaned on runs (launcher, scope) where state = 'running' and lease_until is null;
create index runs_of_flow on runs (flow, id);
create unique index runs_keys on runs (flow, key) where key is not null;

-- What an agent was answered and what it said last, so that a lost reply can be asked for again.
create table claims (
    run_id text not null,
    number integer not null,
    agent_id text not null,
    request_id text not null,
    ended text,
    primary key (run_id, number)
) without rowid;

create index claims_of_request on claims (request_id, agent_id);

create table attempts (
    run_id text not null,
    number integer not null,
    claim integer not null,
    agent text not null,
    started_at real not null,
    finished_at real,
    reason text,
    detail text not null,
    exit_code integer,
    primary key (run_id, number)
) without rowid;

create table logs (
    cursor integer primary key autoincrement,
    run integer not null, -- runs.serial
    attempt integer not null,
    source text not null,
    seq integer not null,
    time real not null,
    level text not null,
    logger text not null,
    text text not null
);

create unique index logs_once on logs (run, attempt, source, seq);
create index logs_of_run on logs (run);

create table agents (
    id text primary key,
    seen_at real not null,
    agent text not null
) without rowid;
