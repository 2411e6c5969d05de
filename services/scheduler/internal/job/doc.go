// Package job is the life of a training job as a pure state machine.
//
// A Job moves QUEUED -> STARTING -> RUNNING -> SUCCEEDED | FAILED | CANCELLED,
// through STOPPING on the way out and PAUSED for a person's pause or a data
// outage. An Attempt is one run of a job under one fence. Every function takes
// values and returns values; time and randomness are arguments, so that a
// simulator and a replay drive exactly the code that runs in production.
//
// One sentence per rule that the rest of the scheduler leans on:
//   - a job has a live attempt if and only if it is STARTING, RUNNING or STOPPING;
//   - Place, the place in line, is given once at submit and never changes;
//   - backing off moves NotBefore and nothing else, so it costs no place;
//   - an exit is judged by the job's intent first and its failure class second.
package job
