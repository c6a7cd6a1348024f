-- Every statement of the PostgreSQL queue, by name. Parameters are named as in the code.

-- name: newest_registration
-- The newest version of one flow.
select registration from flows where name = %(flow)s order by version desc limit 1;

-- name: registration
-- One version of one flow.
select registration from flows where name = %(flow)s and version = %(version)s;

-- name: registrations
-- The newest version of each flow.
select distinct on (name) registration from flows order by name, version desc;

-- name: flow_names
-- All names, to find the one that was meant.
select distinct name from flows;

-- name: versions_lock
-- Who counts versions does so alone: of many that only tried again, one might lose each time.
select pg_advisory_xact_lock(hashtextextended(current_schema() || '.flows', 7093));

-- name: add_registration
-- One new version.
insert into flows (name, version, registration) values (%(flow)s, %(version)s, %(registration)s);

-- name: sets_after
-- The requirement sets that were added since the last look.
select id, labels, launcher, flow from requirement_sets where id > %(after)s order by id;

-- name: set_id
-- The id of a requirement set that may be there.
select id from requirement_sets where labels = %(labels)s and launcher = %(launcher)s and flow = %(flow)s;

-- name: set_lock
-- One at a time may add a requirement set, so that their ids are seen in their order.
select pg_advisory_xact_lock(hashtextextended(current_schema() || '.requirement_sets', 7093));

-- name: add_set
-- A requirement set that no run had before.
insert into requirement_sets (labels, launcher, flow) values (%(labels)s, %(launcher)s, %(flow)s) returning id;

-- name: run
-- One run with what it asks for.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.id = %(id)s;

-- name: run_locked
-- The same, kept from others until the transaction ends.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.id = %(id)s
for update of runs;

-- name: run_by_key
-- The run that an idempotency key stands for.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.flow = %(flow)s and runs.key = %(key)s and runs.key is not null;

-- name: ids_beginning
-- Ids between a beginning and the first text after all that begin so ('{' follows 'z').
select id from runs
where id >= %(prefix)s::text and id < (%(prefix)s::text || '{') collate "C" order by id limit %(limit)s;

-- name: runs
-- A page of runs in any state, newest first.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.id < %(before)s
order by runs.id desc limit %(limit)s;

-- name: runs_of_flow
-- The same for one flow.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.flow = %(flow)s and runs.id < %(before)s
order by runs.id desc limit %(limit)s;

-- name: runs_live
-- The same of those that have not ended, of one flow or (null) of any; states is a JSON list. Each index of the claim
-- is read as far as it has such runs, and no history (offset 0 keeps the planner from walking that by the ids instead).
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.id = any(array(
    (select id from (
        select id from runs
        where state = 'scheduled' and id < %(before)s and (%(flow)s::text is null or flow = %(flow)s) offset 0
    ) as live where jsonb_exists(%(states)s::jsonb, 'scheduled') order by id desc limit %(limit)s)
    union all
    (select id from (
        select id from runs
        where state = 'queued' and id < %(before)s and (%(flow)s::text is null or flow = %(flow)s) offset 0
    ) as live where jsonb_exists(%(states)s::jsonb, 'queued') order by id desc limit %(limit)s)
    union all
    (select id from (
        select id, state from runs
        where state in ('claimed', 'running') and id < %(before)s and (%(flow)s::text is null or flow = %(flow)s)
        offset 0
    ) as live where jsonb_exists(%(states)s::jsonb, state) order by id desc limit %(limit)s)
))
order by runs.id desc limit %(limit)s;

-- name: runs_unsuccessful
-- The same of those that failed or were cancelled: a seek for each of the two.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.id = any(array(
    (select id from runs
    where jsonb_exists(%(states)s::jsonb, 'failed') and state = 'failed' and id < %(before)s
        and (%(flow)s::text is null or flow = %(flow)s)
    order by id desc limit %(limit)s)
    union all
    (select id from runs
    where jsonb_exists(%(states)s::jsonb, 'cancelled') and state = 'cancelled' and id < %(before)s
        and (%(flow)s::text is null or flow = %(flow)s)
    order by id desc limit %(limit)s)
))
order by runs.id desc limit %(limit)s;

-- name: runs_succeeded
-- The same of those that succeeded, as most do: the newest runs are looked at until there are enough of them.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.state = 'succeeded' and runs.id < %(before)s
order by runs.id desc limit %(limit)s;

-- name: runs_succeeded_of_flow
-- The same for one flow.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.flow = %(flow)s and runs.state = 'succeeded' and runs.id < %(before)s
order by runs.id desc limit %(limit)s;

-- name: add_run
-- A new run; nobody has held it yet.
insert into runs (
    id, flow, version, requirement_set, priority, parameters, created_at, retry_of, key,
    state, reason, detail, attempt, claim, losses, due_at, claimed_at, started_at, finished_at,
    agent, agent_id, incarnation, launcher, ref, scope, revision, exit_code, result,
    cancel_requested, released_since, lease_until, lease_boot
) values (
    %(id)s, %(flow)s, %(version)s, %(requirement_set)s, %(priority)s, %(parameters)s, %(created_at)s, %(retry_of)s, %(key)s,
    %(state)s, %(reason)s, %(detail)s, %(attempt)s, %(claim)s, %(losses)s, %(due_at)s, %(claimed_at)s, %(started_at)s, %(finished_at)s,
    %(agent)s, %(agent_id)s, %(incarnation)s, %(launcher)s, %(ref)s, %(scope)s, %(revision)s, %(exit_code)s, %(result)s,
    %(cancel_requested)s, %(released_since)s, %(lease_until)s, %(lease_boot)s
);

-- name: add_runs
-- Many of them, whose columns stand in a JSON list of objects.
insert into runs (
    id, flow, version, requirement_set, priority, parameters, created_at, retry_of, key,
    state, reason, detail, attempt, claim, losses, due_at, claimed_at, started_at, finished_at,
    agent, agent_id, incarnation, launcher, ref, scope, revision, exit_code, result,
    cancel_requested, released_since, lease_until, lease_boot
)
select
    id, flow, version, requirement_set, priority, parameters, created_at, retry_of, key,
    state, reason, detail, attempt, claim, losses, due_at, claimed_at, started_at, finished_at,
    agent, agent_id, incarnation, launcher, ref, scope, revision, exit_code, result,
    cancel_requested, released_since, lease_until, lease_boot
from json_populate_recordset(null::runs, %(runs)s::json) order by id;

-- name: save_run
-- All of a run that can change.
update runs set
    state = %(state)s, reason = %(reason)s, detail = %(detail)s, attempt = %(attempt)s, claim = %(claim)s, losses = %(losses)s,
    due_at = %(due_at)s, claimed_at = %(claimed_at)s, started_at = %(started_at)s, finished_at = %(finished_at)s,
    agent = %(agent)s, agent_id = %(agent_id)s, incarnation = %(incarnation)s, launcher = %(launcher)s, ref = %(ref)s,
    scope = %(scope)s, revision = %(revision)s, exit_code = %(exit_code)s, result = %(result)s,
    cancel_requested = %(cancel_requested)s, released_since = %(released_since)s, lease_until = %(lease_until)s, lease_boot = %(lease_boot)s
where id = %(id)s;

-- name: promote
-- What has become due waits in the claim's index from now on; the index gives the longest due first.
update runs set state = 'queued' where serial in (
    select serial from runs
    where state = 'scheduled' and due_at <= %(now)s
    order by due_at, serial limit %(limit)s
    for update skip locked
);

-- name: claim_candidates
-- The head of one requirement set: one seek, and no more rows than are asked for.
select priority, id from runs
where state = 'queued' and requirement_set = %(requirement_set)s
order by priority desc, id limit %(limit)s;

-- name: claim_heads
-- The heads of the requirement sets: one seek for each, and more than are asked for, since others may hold some.
-- Where limits hold runs back, all heads are wanted, whatever stands before them.
select heads.id from unnest(%(sets)s::bigint[]) as wanted (id)
cross join lateral (
    select id, priority from runs
    where state = 'queued' and requirement_set = wanted.id
    order by priority desc, id limit %(limit)s
) as heads
order by heads.priority desc, heads.id limit %(most)s;

-- name: claim_locked
-- Those of them that nobody else is about to take.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.id = any(%(ids)s::text[]) and runs.state = 'queued'
order by runs.priority desc, runs.id limit %(limit)s
for update of runs skip locked;

-- name: expired
-- Leases that ended: of this boot by time, of any other boot all; three seeks, since an OR would read them all.
select id from runs where lease_until is not null and lease_boot = %(boot)s and lease_until <= %(monotonic)s
union all
select id from runs where lease_until is not null and lease_boot < %(boot)s
union all
select id from runs where lease_until is not null and lease_boot > %(boot)s;

-- name: expired_locked
-- Those of them that still are, and of which nobody else sees to the end.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.id = any(%(ids)s::text[]) and runs.lease_until is not null
    and (runs.lease_boot <> %(boot)s or runs.lease_until <= %(monotonic)s)
order by runs.id
for update of runs skip locked;

-- name: held_by
-- What the incarnations of one agent hold; walks the held runs, which are few.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.lease_until is not null and runs.agent_id = %(agent_id)s
order by runs.id;

-- name: lock_held_by
-- These, kept from others until the transaction ends.
select id from runs where lease_until is not null and agent_id = %(agent_id)s order by id for update;

-- name: orphaned
-- What goes on somewhere with nobody watching.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.state = 'running' and runs.lease_until is null
    and runs.launcher = %(launcher)s and runs.scope = %(scope)s
order by runs.id limit %(limit)s
for update of runs skip locked;

-- name: waiting
-- Queued runs by requirement set, as far as they are counted: of each set a piece of the claim's index alone.
select s.labels, s.launcher, q.queued, greatest(r.created_at, coalesce(r.due_at, r.created_at)) as since
from requirement_sets as s
cross join lateral (
    select count(*) as queued, min(piece.id) as oldest from (
        select id from runs
        where state = 'queued' and requirement_set = s.id order by priority desc, id limit %(most)s
    ) as piece
) as q
join runs as r on r.id = q.oldest
order by s.id;

-- name: going
-- Runs that go on without an agent, watched or not, by requirement set: no more than there are Jobs and tasks.
select s.labels, s.launcher, count(*) as going
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.state = 'running' and runs.scope <> ''
group by s.id, s.labels, s.launcher order by s.id;

-- name: next_due
-- When the next scheduled run becomes due.
select min(due_at) from runs where state = 'scheduled';

-- name: add_claim
-- A claim that was won.
insert into claims (run_id, number, agent_id, request_id) values (%(run_id)s, %(number)s, %(agent_id)s, %(request_id)s);

-- name: claims_of
-- What one request won.
select run_id, number from claims where request_id = %(request_id)s and agent_id = %(agent_id)s order by run_id, number;

-- name: claim_end
-- How its agent ended a claim.
select ended from claims where run_id = %(run_id)s and number = %(number)s;

-- name: end_claim
-- Its agent ended the claim.
update claims set ended = %(how)s where run_id = %(run_id)s and number = %(number)s;

-- name: add_attempt
-- User code is about to start.
insert into attempts (run_id, number, claim, agent, started_at, detail)
values (%(run_id)s, %(number)s, %(claim)s, %(agent)s, %(started_at)s, '');

-- name: end_attempt
-- User code has ended.
update attempts set finished_at = %(at)s, reason = %(reason)s, detail = %(detail)s, exit_code = %(exit_code)s
where run_id = %(run_id)s and number = %(number)s;

-- name: attempts
-- The attempts of a run.
select * from attempts where run_id = %(run_id)s order by number;

-- name: add_log
-- One line, unless it is there already.
insert into logs (run, attempt, source, seq, time, level, logger, text)
select serial, %(attempt)s, %(source)s, %(seq)s, %(time)s, %(level)s, %(logger)s, %(text)s
from runs where id = %(run_id)s
on conflict (run, attempt, source, seq) do nothing;

-- name: last_seq
-- How far the log of one source has come.
select max(seq) from logs
where run = (select serial from runs where id = %(run_id)s) and attempt = %(attempt)s and source = %(source)s;

-- name: logs
-- A page of a run's log.
select attempt, source, seq, time, level, logger, text, cursor from logs
where run = (select serial from runs where id = %(run_id)s) and cursor > %(after)s
order by cursor limit %(limit)s;

-- name: agent
-- One agent.
select agent from agents where id = %(id)s;

-- name: agents
-- Those that gave a sign of life since then.
select agent from agents where seen_at >= %(since)s;

-- name: save_agent
-- An agent as it is now.
insert into agents (id, seen_at, agent) values (%(id)s, %(seen_at)s, %(agent)s)
on conflict (id) do update set seen_at = excluded.seen_at, agent = excluded.agent;

-- name: remove_agent
-- An agent that is gone.
delete from agents where id = %(id)s;

-- name: limits
-- All limits.
select kind, name, slots, when_full from limits order by kind, name;

-- name: limits_lock
-- Who changes limits, or removes what runs may name, does so alone.
select pg_advisory_xact_lock(hashtextextended(current_schema() || '.limits', 7093));

-- name: limits_lock_shared
-- Whoever adds runs keeps limits from changing, and what they name from being removed, meanwhile.
select pg_advisory_xact_lock_shared(hashtextextended(current_schema() || '.limits', 7093));

-- name: slots_lock
-- Who counts slots does so alone. This is taken after the shared one, and is another: of two that share a lock, none
-- can have it alone.
select pg_advisory_xact_lock(hashtextextended(current_schema() || '.slots', 7093));

-- name: save_limit
-- A limit as it is to be.
insert into limits (kind, name, slots, when_full) values (%(kind)s, %(named)s, %(slots)s, %(when_full)s)
on conflict (kind, name) do update set slots = excluded.slots, when_full = excluded.when_full;

-- name: remove_limit
-- A limit that is not wanted any more.
delete from limits where kind = %(kind)s and name = %(named)s returning name;

-- name: sets_of_flow
-- The sets of runs of a flow that have not ended, and are not told apart by flow yet; reads that flow's runs once.
select distinct s.id, s.labels, s.launcher from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.flow = %(flow)s and s.flow = '' and runs.state in ('scheduled', 'queued', 'claimed', 'running');

-- name: move_runs
-- Runs of a flow that has a limit from now on belong to sets of its own.
update runs set requirement_set = %(new)s
where flow = %(flow)s and requirement_set = %(old)s and state in ('scheduled', 'queued', 'claimed', 'running');

-- name: count_taken
-- How many runs have a slot, by set: they are few, whatever sets there are, and have an index of their own.
select requirement_set, count(*) as taken from runs where state in ('claimed', 'running') group by requirement_set;

-- name: occupying
-- The runs of some sets that have a slot, and the heads of those that wait; sets is a JSON list.
with wanted as materialized (select value::bigint as id from json_array_elements_text(%(sets)s::json))
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.serial = any(array(
    select serial from runs where state in ('claimed', 'running') and requirement_set in (select id from wanted)
    union all
    select heads.serial from wanted cross join lateral (
        select serial from runs
        where state = 'queued' and requirement_set = wanted.id
        order by priority desc, id limit %(limit)s
    ) as heads
))
order by runs.id;

-- name: past
-- A page of runs, newest first: what has to be known to decide which may go.
select id, flow, state, finished_at from runs where id < %(before)s order by id desc limit %(limit)s;

-- name: past_of_flow
-- The same for one flow.
select id, flow, state, finished_at from runs
where flow = %(flow)s and id < %(before)s order by id desc limit %(limit)s;

-- name: retries
-- The runs that name one of these as what they repeat; each name is a seek.
select runs.retry_of, runs.id from runs
where retry_of is not null and retry_of in (select json_array_elements_text(%(ids)s::json)) order by runs.id;

-- name: nth_ended
-- The oldest of the newest runs of a flow that stay.
select id from runs
where flow = %(flow)s and state in (select json_array_elements_text(%(states)s::json))
order by id desc limit 1 offset %(before)s;

-- name: count_logs
-- How many lines some runs have.
select count(*) from logs
where run in (select serial from runs where id in (select json_array_elements_text(%(ids)s::json)));

-- name: remove_logs
-- Some lines of some runs.
delete from logs where cursor in (
    select cursor from logs
    where run in (select serial from runs where id in (select json_array_elements_text(%(ids)s::json)))
    limit %(limit)s
);

-- name: remove_claims
-- What was answered about some runs.
delete from claims where run_id in (select json_array_elements_text(%(ids)s::json));

-- name: remove_attempts
-- The attempts of some runs.
delete from attempts where run_id in (select json_array_elements_text(%(ids)s::json));

-- name: remove_runs
-- Some runs that have ended.
delete from runs
where id in (select json_array_elements_text(%(ids)s::json)) and state in ('succeeded', 'failed', 'cancelled');

-- name: superseded
-- The versions that are not their flow's newest, and that no run names; reads all runs once, whatever the planner
-- knows of them.
with used as materialized (select distinct flow, version from runs)
select f.registration from flows as f
where f.version < (select max(version) from flows as n where n.name = f.name)
    and not exists (select 1 from used where used.flow = f.name and used.version = f.version)
order by f.name, f.version;

-- name: last_added
-- The run that was added last; what is added later has a greater serial.
select id from runs order by serial desc limit 1;

-- name: serial_of
-- Where a run stands in the order in which they were added.
select serial from runs where id = %(id)s;

-- name: remove_registrations
-- Some of them, but for those that a run has come to name; the runs since are read once for all.
with used as materialized (select distinct flow, version from runs where serial > %(since)s)
delete from flows as f
using unnest(
    array(select json_array_elements_text(%(flows)s::json)),
    array(select json_array_elements_text(%(versions)s::json)::bigint)
) as named (name, version)
where f.name = named.name collate "C" and f.version = named.version
    and f.version < (select max(version) from flows as n where n.name = f.name)
    and not exists (select 1 from used where used.flow = f.name and used.version = f.version);
