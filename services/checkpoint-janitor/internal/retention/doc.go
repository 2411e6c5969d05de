// Package retention decides which checkpoints stay. It is pure: a policy, an
// inventory and an instant come in, one immutable, hashed plan with a reason
// for every checkpoint comes out. The service, the offline command and the
// tests all call the same [Decide], so an explanation can be replayed.
//
// The rules, in the order in which they speak:
//
//  1. Roots are never touched: production, staging, aliases and every registry
//     version, rollback targets, pins, legal holds, warm starts, what a person
//     restored, the newest verified checkpoints of a live job, anything young
//     or in flight, anything whose record contradicts itself, and the parents
//     of all that is kept.
//  2. In an experiment where at least one checkpoint has a finite Sharpe the
//     best K stay; the others are dropped after a while. An experiment without
//     any finite Sharpe is never judged by rank: dropping there would be a
//     guess.
//  3. What stays only for its rank is archived when it grows old, and dropped
//     when its whole experiment has been abandoned.
//
// NaN and the infinities never rank: in SQL they sort above every number, and
// a plain "ORDER BY sharpe DESC LIMIT 5" would delete the best checkpoint.
package retention
