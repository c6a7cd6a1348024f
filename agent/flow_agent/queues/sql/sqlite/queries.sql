-- Every statement of the SQLite queue, by name. Parameters are named as in the code.

-- name: newest_registration
-- The newest version of one flow.
select registration from flows where name = :flow order by version desc limit 1;

-- name: registration
-- One version of one flow.
select registration from flows where name = :flow and version = :version;

-- name: registrations
-- The newest version of each flow: SQLite takes the bare column from the row of the maximum.
select max(version), registration from flows group by name order by name;

-- name: flow_names
-- All names, to find the one that was meant.
select distinct name from flows;

-- name: add_registration
-- One new version.
insert into flows (name, version, registration) values (:flow, :version, :registration);

-- name: sets_after
-- The requirement sets that were added since the last look.
select id, labels, launcher, flow from requirement_sets where id > :after order by id;

-- name: set_id
-- The id of a requirement set that may be there.
select id from requirement_sets where labels = :labels and launcher = :launcher and flow = :flow;

-- name: add_set
-- A requirement set that no run had before.
insert into requirement_sets (labels, launcher, flow) values (:labels, :launcher, :flow) returning id;

-- name: run
-- One run with what it asks for.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.id = :id;

-- name: run_by_key
-- The run that an idempotency key stands for.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.flow = :flow and runs.key = :key and runs.key is not null;

-- name: ids_beginning
-- Ids between a beginning and the first text after all that begin so ('{' follows 'z').
select id from runs where id >= :prefix and id < :prefix || '{' order by id limit :limit;

-- name: runs
-- A page of runs in any state, newest first.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.id < :before
order by runs.id desc limit :limit;

-- name: runs_of_flow
-- The same for one flow.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.flow = :flow and runs.id < :before
order by runs.id desc limit :limit;

-- name: runs_live
-- The same of those that have not ended, of one flow or (null) of any; states is a JSON list. Each index of the claim
-- is read as far as it has such runs, and no history.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.serial in (
    select serial from (
        select serial from runs indexed by runs_scheduled
        where state = 'scheduled' and id < :before and (:flow is null or flow = :flow)
        order by id desc limit case when instr(:states, '"scheduled"') then :limit else 0 end
    )
    union all
    select serial from (
        select serial from runs indexed by runs_queued
        where state = 'queued' and id < :before and (:flow is null or flow = :flow)
        order by id desc limit case when instr(:states, '"queued"') then :limit else 0 end
    )
    union all
    select serial from (
        select serial from runs indexed by runs_taken
        where state in ('claimed', 'running') and id < :before and (:flow is null or flow = :flow)
            and +state in (select value from json_each(:states))
        order by id desc limit :limit
    )
)
order by runs.id desc limit :limit;

-- name: runs_unsuccessful
-- The same of those that failed or were cancelled: a seek for each of the two. What both have in common is said, since
-- SQLite does not infer it.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.serial in (
    select serial from (
        select serial from runs indexed by runs_unsuccessful
        where state in ('failed', 'cancelled') and state = 'failed' and id < :before
            and (:flow is null or flow = :flow)
        order by id desc limit case when instr(:states, '"failed"') then :limit else 0 end
    )
    union all
    select serial from (
        select serial from runs indexed by runs_unsuccessful
        where state in ('failed', 'cancelled') and state = 'cancelled' and id < :before
            and (:flow is null or flow = :flow)
        order by id desc limit case when instr(:states, '"cancelled"') then :limit else 0 end
    )
)
order by runs.id desc limit :limit;

-- name: runs_succeeded
-- The same of those that succeeded, as most do: the newest runs are looked at until there are enough of them. The plus
-- keeps the claim's index out of it.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where +runs.state = 'succeeded' and runs.id < :before
order by runs.id desc limit :limit;

-- name: runs_succeeded_of_flow
-- The same for one flow.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.flow = :flow and +runs.state = 'succeeded' and runs.id < :before
order by runs.id desc limit :limit;

-- name: add_run
-- A new run; nobody has held it yet.
insert into runs (
    id, flow, version, requirement_set, priority, parameters, created_at, retry_of, key,
    state, reason, detail, attempt, claim, losses, due_at, claimed_at, started_at, finished_at,
    agent, agent_id, incarnation, launcher, ref, scope, revision, exit_code, result,
    cancel_requested, released_since, lease_until, lease_boot
) values (
    :id, :flow, :version, :requirement_set, :priority, :parameters, :created_at, :retry_of, :key,
    :state, :reason, :detail, :attempt, :claim, :losses, :due_at, :claimed_at, :started_at, :finished_at,
    :agent, :agent_id, :incarnation, :launcher, :ref, :scope, :revision, :exit_code, :result,
    :cancel_requested, :released_since, :lease_until, :lease_boot
);

-- name: save_run
-- All of a run that can change.
update runs set
    state = :state, reason = :reason, detail = :detail, attempt = :attempt, claim = :claim, losses = :losses,
    due_at = :due_at, claimed_at = :claimed_at, started_at = :started_at, finished_at = :finished_at,
    agent = :agent, agent_id = :agent_id, incarnation = :incarnation, launcher = :launcher, ref = :ref,
    scope = :scope, revision = :revision, exit_code = :exit_code, result = :result,
    cancel_requested = :cancel_requested, released_since = :released_since, lease_until = :lease_until, lease_boot = :lease_boot
where id = :id;

-- name: promote
-- What has become due waits in the claim's index from now on; the index gives the longest due first.
update runs set state = 'queued' where serial in (
    select serial from runs indexed by runs_scheduled
    where state = 'scheduled' and due_at <= :now
    order by due_at, serial limit :limit
);

-- name: claim_candidates
-- The head of one requirement set: one seek, and no more rows than are asked for.
select priority, id from runs indexed by runs_queued
where state = 'queued' and requirement_set = :requirement_set
order by priority desc, id limit :limit;

-- name: expired
-- Leases that ended: of this boot by time, of any other boot all; three seeks, since an OR would read them all.
select id from runs where lease_until is not null and lease_boot = :boot and lease_until <= :monotonic
union all
select id from runs where lease_until is not null and lease_boot < :boot
union all
select id from runs where lease_until is not null and lease_boot > :boot;

-- name: held_by
-- What the incarnations of one agent hold; walks the held runs, which are few.
select id from runs where lease_until is not null and agent_id = :agent_id order by id;

-- name: orphaned
-- What goes on somewhere with nobody watching.
select id from runs
where state = 'running' and lease_until is null and launcher = :launcher and scope = :scope
order by id limit :limit;

-- name: waiting
-- Queued runs by requirement set, as far as they are counted: of each set a piece of the claim's index alone.
select q.labels, q.launcher, q.queued, max(r.created_at, coalesce(r.due_at, r.created_at)) as since
from (
    select s.id, s.labels, s.launcher,
        (
            select count(*) from (
                select 1 from runs indexed by runs_queued
                where state = 'queued' and requirement_set = s.id limit :most
            )
        ) as queued,
        (
            select min(id) from (
                select id from runs indexed by runs_queued
                where state = 'queued' and requirement_set = s.id order by priority desc, id limit :most
            )
        ) as oldest
    from requirement_sets as s
) as q join runs as r on r.id = q.oldest
order by q.id;

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
insert into claims (run_id, number, agent_id, request_id) values (:run_id, :number, :agent_id, :request_id);

-- name: claims_of
-- What one request won.
select run_id, number from claims where request_id = :request_id and agent_id = :agent_id order by run_id, number;

-- name: claim_end
-- How its agent ended a claim.
select ended from claims where run_id = :run_id and number = :number;

-- name: end_claim
-- Its agent ended the claim.
update claims set ended = :how where run_id = :run_id and number = :number;

-- name: add_attempt
-- User code is about to start.
insert into attempts (run_id, number, claim, agent, started_at, detail)
values (:run_id, :number, :claim, :agent, :started_at, '');

-- name: end_attempt
-- User code has ended.
update attempts set finished_at = :at, reason = :reason, detail = :detail, exit_code = :exit_code
where run_id = :run_id and number = :number;

-- name: attempts
-- The attempts of a run.
select * from attempts where run_id = :run_id order by number;

-- name: add_log
-- One line, unless it is there already.
insert or ignore into logs (run, attempt, source, seq, time, level, logger, text)
select serial, :attempt, :source, :seq, :time, :level, :logger, :text from runs where id = :run_id;

-- name: last_seq
-- How far the log of one source has come.
select max(seq) from logs
where run = (select serial from runs where id = :run_id) and attempt = :attempt and source = :source;

-- name: logs
-- A page of a run's log.
select attempt, source, seq, time, level, logger, text, cursor from logs indexed by logs_of_run
where run = (select serial from runs where id = :run_id) and cursor > :after
order by cursor limit :limit;

-- name: agent
-- One agent.
select agent from agents where id = :id;

-- name: agents
-- Those that gave a sign of life since then.
select agent from agents where seen_at >= :since;

-- name: save_agent
-- An agent as it is now.
insert into agents (id, seen_at, agent) values (:id, :seen_at, :agent)
on conflict (id) do update set seen_at = excluded.seen_at, agent = excluded.agent;

-- name: remove_agent
-- An agent that is gone.
delete from agents where id = :id;

-- name: limits
-- All limits.
select kind, name, slots, when_full from limits order by kind, name;

-- name: save_limit
-- A limit as it is to be.
insert into limits (kind, name, slots, when_full) values (:kind, :named, :slots, :when_full)
on conflict (kind, name) do update set slots = excluded.slots, when_full = excluded.when_full;

-- name: remove_limit
-- A limit that is not wanted any more.
delete from limits where kind = :kind and name = :named returning name;

-- name: sets_of_flow
-- The sets of runs of a flow that have not ended, and are not told apart by flow yet; reads that flow's runs once.
select distinct s.id, s.labels, s.launcher from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.flow = :flow and s.flow = '' and runs.state in ('scheduled', 'queued', 'claimed', 'running');

-- name: move_runs
-- Runs of a flow that has a limit from now on belong to sets of its own.
update runs set requirement_set = :new
where flow = :flow and requirement_set = :old and state in ('scheduled', 'queued', 'claimed', 'running');

-- name: count_taken
-- How many runs have a slot, by set: they are few, whatever sets there are, and have an index of their own.
select requirement_set, count(*) as taken from runs indexed by runs_taken
where state in ('claimed', 'running') group by requirement_set;

-- name: occupying
-- The runs of some sets that have a slot, and the heads of those that wait; sets is a JSON list.
select runs.*, s.labels, s.launcher as asked
from runs join requirement_sets as s on s.id = runs.requirement_set
where runs.serial in (
    select serial from runs indexed by runs_taken
    where state in ('claimed', 'running') and requirement_set in (select value from json_each(:sets))
    union all
    select head.serial from json_each(:sets) as wanted cross join runs as head on head.serial in (
        select serial from runs indexed by runs_queued
        where state = 'queued' and requirement_set = wanted.value
        order by priority desc, id limit :limit
    )
)
order by runs.id;

-- name: past
-- A page of runs, newest first: what has to be known to decide which may go.
select id, flow, state, finished_at from runs where id < :before order by id desc limit :limit;

-- name: past_of_flow
-- The same for one flow.
select id, flow, state, finished_at from runs
where flow = :flow and id < :before order by id desc limit :limit;

-- name: retries
-- The runs that name one of these as what they repeat; each name is a seek.
select runs.retry_of, runs.id from runs
where retry_of is not null and retry_of in (select value from json_each(:ids)) order by runs.id;

-- name: nth_ended
-- The oldest of the newest runs of a flow that stay.
select id from runs
where flow = :flow and +state in (select value from json_each(:states))
order by id desc limit 1 offset :before;

-- name: count_logs
-- How many lines some runs have.
select count(*) from logs
where run in (select serial from runs where id in (select value from json_each(:ids)));

-- name: remove_logs
-- Some lines of some runs.
delete from logs where cursor in (
    select cursor from logs indexed by logs_of_run
    where run in (select serial from runs where id in (select value from json_each(:ids)))
    limit :limit
);

-- name: remove_claims
-- What was answered about some runs.
delete from claims where run_id in (select value from json_each(:ids));

-- name: remove_attempts
-- The attempts of some runs.
delete from attempts where run_id in (select value from json_each(:ids));

-- name: remove_runs
-- Some runs that have ended.
delete from runs
where id in (select value from json_each(:ids)) and +state in ('succeeded', 'failed', 'cancelled');

-- name: superseded
-- The versions that are not their flow's newest, and that no run names; reads all runs once.
select f.registration from flows as f
where f.version < (select max(version) from flows as n where n.name = f.name)
    and (f.name, f.version) not in (select flow, version from runs)
order by f.name, f.version;

-- name: last_added
-- The run that was added last; what is added later has a greater serial, as long as this run is there.
select id from runs order by serial desc limit 1;

-- name: serial_of
-- Where a run stands in the order in which they were added.
select serial from runs where id = :id;

-- name: remove_registrations
-- Some of them, but for those that a run has come to name; the runs since are read once for all.
delete from flows
where (name, version) in (
        select f.value, v.value from json_each(:flows) as f join json_each(:versions) as v on v.key = f.key
    )
    and version < (select max(version) from flows as n where n.name = flows.name)
    and (name, version) not in (select flow, version from runs where serial > :since);
