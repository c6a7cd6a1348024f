#!/usr/bin/env bash
# The way of one run, on this machine: register a flow, submit a run of it, let an agent run it, look at what came of it.
# Needs the command flow-agent on PATH; `make demo` sees to that. Everything happens in .demo, which is made anew.
set -euo pipefail
cd "$(dirname "$0")/../.."

# What the shell around has set up for another home is not meant for this one.
unset "${!FLOW_AGENT_@}"
export FLOW_AGENT_HOME=$PWD/.demo
# For people, also where the output goes into a file.
export FLOW_AGENT_LOG__FORMAT=pretty
rm -rf .demo

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

show flow-agent register docs/examples/hello.py

printf '\n$ flow-agent submit hello -p name=Ada -p times=3 -p stumble=true\n'
run=$(flow-agent submit hello -p name=Ada -p times=3 -p stumble=true)
printf '%s\n' "$run"

printf '\nThe first attempt fails on purpose; the second comes a second later.\n'
show flow-agent start --until-empty

show flow-agent logs "$run"
show flow-agent show "$run"

printf '\n$ flow-agent result %s\n' "$run"
result=$(flow-agent result "$run")
printf '%s\n' "$result"

if [ "$result" != 'greeted Ada 3 times' ]; then
    printf '\ndemo: the result is "%s", expected "greeted Ada 3 times"\n' "$result" >&2
    exit 1
fi
printf '\nAll of this lies in .demo; `rm -r .demo` removes it. Next: docs/quickstart.md\n'
