// Package e2e proves the whole mesh: the real binaries of `make build`, a real Postgres, a real S3 server and real market history,
// started by `trainyard up` in a directory of its own and killed at random. Every test needs the build tag e2e and bin/ filled.
package e2e
