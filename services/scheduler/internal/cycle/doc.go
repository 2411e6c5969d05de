// Package cycle turns the pure decisions into a durable service.
//
// The Engine keeps the whole unfinished world in memory and writes every change
// to a Store. One goroutine, the committer, executes every mutation: it takes
// the operations that wait, runs them one after another on an overlay of the
// world, writes what they changed in one transaction, and only then makes it
// visible and answers. So an answer means durable, a reader never sees what
// could still be lost, operations need no locks between them, and a hundred
// callers share one fsync. Row locks and SKIP LOCKED were the alternative: they
// let several writers in, which no part of a single planner needs, and cost a
// round trip per lock.
//
// When a commit fails, its outcome is unknown: the memory is thrown away and
// read again from the store, which is the truth.
//
// The planner takes a snapshot, lets placement plan it, and hands the plan to
// the committer, which checks every placement again against the world as it is
// then and refuses what went stale.
package cycle
