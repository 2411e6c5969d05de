// Package catalog holds the registry's decisions: which checkpoint is the best,
// which stage move is legal and what it drags along, what a promotion gate says,
// what keeps a checkpoint from being swept, and how the history chains.
//
// It is pure: values in, values out, no I/O, no clock. The postgres package reads
// the rows under lock, asks this package, and writes what it answers, so that every
// rule is tested without a database and once more against the database.
package catalog
