// Package placement decides which job runs on which device.
//
// It is a pure function: a Snapshot with its own now goes in, a Plan comes out,
// and the same snapshot gives the same plan on every machine. Nodes and devices
// keep the order in which they are given: the fixed order is the tie-break, and
// it is worth more than any score (random ties scatter jobs over the fleet).
//
// It speaks bytes. A device is safe when the sum of what its holders were
// promised, each with the overhead of one process, stays under its memory less
// its headroom. A whole-device demand takes a device that has no holder and
// lets no other in.
//
// A job that is not placed carries a reason that a person can act on.
package placement
