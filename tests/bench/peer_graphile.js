// Driver for graphile-worker, with NODE_PATH where it is installed: `URL prepare|more JOBS`; `URL SECONDS NAME`, which
// prints the seconds of each taking of a job, one at a time; `URL first JOBS`, which prints the seconds from the call
// that adds a job to the first line of its task, on an idle worker. Its tasks run in the worker's own process.
"use strict";

const { EventEmitter } = require("node:events");
const { setTimeout: sleep } = require("node:timers/promises");
const { Logger, makeWorkerUtils, run } = require("graphile-worker");

const PAUSE = 250; // milliseconds, as in serving.py
const quiet = new Logger(() => () => {});
const now = () => (performance.timeOrigin + performance.now()) / 1e3;

async function prepare(connectionString, jobs) {
  const utils = await makeWorkerUtils({ connectionString, logger: quiet });
  await utils.migrate();
  await utils.withPgClient((client) =>
    client.query("select graphile_worker.add_job('noop') from generate_series(1, $1)", [jobs]),
  );
  await utils.release();
}

async function work(connectionString, seconds) {
  const events = new EventEmitter();
  const times = [];
  let began = 0;
  events.on("worker:getJob:start", () => (began = performance.now()));
  events.on("job:start", () => times.push((performance.now() - began) / 1e3));
  const taskList = { noop: async () => {} };
  const runner = await run({ connectionString, concurrency: 1, noHandleSignals: true, logger: quiet, taskList, events });
  await sleep(seconds * 1e3);
  await runner.stop();
  return times;
}

async function first(connectionString, jobs) {
  let told = () => {};
  const taskList = { line: async () => told(now()) };
  const runner = await run({ connectionString, concurrency: 1, noHandleSignals: true, logger: quiet, taskList });
  const times = [];
  for (let job = 0; job < jobs; job++) {
    await sleep(PAUSE);
    const line = new Promise((resolve) => (told = resolve));
    const called = now();
    await runner.addJob("line");
    times.push((await line) - called);
  }
  await runner.stop();
  return times;
}

async function main([url, what, more]) {
  if (what === "prepare" || what === "more") await prepare(url, Number(more));
  else console.log(JSON.stringify(await (what === "first" ? first(url, Number(more)) : work(url, Number(what)))));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
