//go:build !amd64

package kernel

// available lists the portable set only: assembly exists for amd64.
func available() []*Set { return []*Set{portable} }
